// The frame of the page: head, the panel with what is entered, the canvas, the history.

import { useEffect, useState } from "preact/hooks";
import { Code } from "./code";
import { Form } from "./form";
import { History } from "./history";
import { JsonView } from "./json";
import { KeyDialog } from "./key";
import { ServerDialog } from "./server";
import { Stage } from "./stage";
import { addFiles, addLink } from "./draft";
import { cancel, edit } from "./runs";
import { chooseLanguage } from "./start";
import { active, runNamed, update, useApp, w } from "./state";
import { applyTheme, readTheme, type Theme } from "./theme";
import { Tabs } from "./ui";

const TABS = ["form", "json", "code"] as const;
const THEMES: Theme[] = ["auto", "light", "dark"];

export function App() {
  const app = useApp();
  const [tab, setTab] = useState<(typeof TABS)[number]>("form");
  const [serverShown, setServerShown] = useState(false);
  const dropping = useDropAndPaste();
  const text = w();
  const run = runNamed(app.selected);
  const running = run !== undefined && active(run);
  return (
    <>
      <Head onServer={() => setServerShown(true)} />
      <main class={dropping ? "dropping" : ""}>
        <form
          class="panel"
          aria-label={text.intro}
          onSubmit={(event) => {
            event.preventDefault();
            void edit();
          }}
        >
          <Tabs
            label={text.intro}
            names={TABS}
            titles={{ form: text.form, json: text.json, code: text.code }}
            chosen={tab}
            onChoose={setTab}
          >
            {!app.loaded ? (
              <p class="hint" role={app.trouble ? "alert" : undefined}>
                {app.trouble ?? text.connecting}
              </p>
            ) : tab === "form" ? (
              <Form />
            ) : tab === "json" ? (
              <JsonView />
            ) : (
              <Code />
            )}
          </Tabs>
          <footer class="actions">
            {app.problems[""] && (
              <p class="problem" role="alert">
                {app.problems[""]}
              </p>
            )}
            <div class="row">
              <button type="submit" class="primary" disabled={!app.loaded}>
                {text.edit}
              </button>
              {running && (
                <button type="button" onClick={() => void cancel()} disabled={run.cancelling}>
                  {text.cancel}
                </button>
              )}
              <Price />
            </div>
          </footer>
        </form>
        <div class="work">
          <Stage />
          <History />
        </div>
      </main>
      <p class="visually-hidden" aria-live="polite">
        {app.announcement}
      </p>
      {app.keyAsked && <KeyDialog reason={app.keyAsked} />}
      {serverShown && <ServerDialog onClose={() => setServerShown(false)} />}
    </>
  );
}

function Head({ onServer }: { onServer: () => void }) {
  const app = useApp();
  const [theme, setTheme] = useState<Theme>(readTheme());
  const text = w();
  const turn = () => {
    const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length] as Theme;
    applyTheme(next);
    setTheme(next);
  };
  return (
    <header class="head">
      <h1>
        <svg viewBox="0 0 32 32" aria-hidden="true">
          <circle cx="16" cy="16" r="13" />
          <path d="M16 3a13 13 0 0 0 0 26z" />
        </svg>
        Retouch
      </h1>
      {app.model && <p class="served">{text.servedBy(app.model)}</p>}
      <nav>
        <button type="button" class="quiet" onClick={onServer}>
          {text.server}
        </button>
        <button type="button" class="quiet" onClick={() => update({ keyAsked: "chosen" })}>
          {text.key}
        </button>
        <button
          type="button"
          class="quiet"
          lang={app.language === "en" ? "zh-Hans" : "en"}
          onClick={() => chooseLanguage(app.language === "en" ? "zh" : "en")}
        >
          {text.language}
        </button>
        <button type="button" class="quiet" onClick={turn} aria-label={text.themeHint(text.theme[theme])}>
          {text.theme[theme]}
        </button>
      </nav>
    </header>
  );
}

function Price() {
  const { estimate, estimating } = useApp();
  const text = w();
  if (!estimate) return null;
  const dollars = (estimate.microUsd / 1_000_000).toFixed(4);
  return (
    <p class={estimating ? "price old" : "price"}>
      {text.price(dollars)} <small>{text.priceHint}</small>
    </p>
  );
}

/** Files and links may be dropped or pasted anywhere; returns whether something hangs over the page. */
function useDropAndPaste(): boolean {
  const [over, setOver] = useState(false);
  useEffect(() => {
    const hasFiles = (event: DragEvent) => event.dataTransfer?.types.some((type) => type === "Files" || type === "text/uri-list");
    const onOver = (event: DragEvent) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      setOver(true);
    };
    const onLeave = (event: DragEvent) => event.relatedTarget === null && setOver(false);
    const onDrop = (event: DragEvent) => {
      setOver(false);
      if (!hasFiles(event)) return;
      event.preventDefault();
      const files = [...(event.dataTransfer?.files ?? [])];
      const link = event.dataTransfer?.getData("text/uri-list").split("\n")[0] ?? "";
      if (files.length) void addFiles(files);
      else if (/^https?:/.test(link)) void addLink(link);
    };
    const onPaste = (event: ClipboardEvent) => {
      const files = [...(event.clipboardData?.files ?? [])];
      const text = event.clipboardData?.getData("text/plain").trim() ?? "";
      const typing = event.target instanceof HTMLInputElement || event.target instanceof HTMLTextAreaElement;
      if (files.length) {
        event.preventDefault();
        void addFiles(files);
      } else if (!typing && /^https?:\/\/\S+$/.test(text)) void addLink(text);
    };
    addEventListener("dragover", onOver);
    addEventListener("dragleave", onLeave);
    addEventListener("drop", onDrop);
    addEventListener("paste", onPaste);
    return () => {
      removeEventListener("dragover", onOver);
      removeEventListener("dragleave", onLeave);
      removeEventListener("drop", onDrop);
      removeEventListener("paste", onPaste);
    };
  }, []);
  return over;
}
