// Small pieces used in several places: tabs, dialogs, and stored images as addresses for <img>.

import type { ComponentChildren } from "preact";
import { useEffect, useId, useRef, useState } from "preact/hooks";
import { ownPath, readable } from "./api";
import { w } from "./state";
import { readFile, type StoredFile } from "./store";

export interface LoadedImage {
  file: StoredFile;
  url: string;
  thumbnail: string;
}

const loading = new Map<string, Promise<LoadedImage | null>>();
const ready = new Map<string, LoadedImage>();

/** An image of this browser's store with addresses for it, which stay valid as long as the page. */
export function loadImage(id: string): Promise<LoadedImage | null> {
  const known = loading.get(id);
  if (known) return known;
  const found = readFile(id).then((file) => {
    if (!file) {
      loading.delete(id);
      return null;
    }
    const image = { file, url: URL.createObjectURL(file.blob), thumbnail: URL.createObjectURL(file.thumbnail) };
    ready.set(id, image);
    return image;
  });
  loading.set(id, found);
  return found;
}

export function useFile(id: string | undefined): LoadedImage | null {
  const [image, setImage] = useState<LoadedImage | null>(null);
  useEffect(() => {
    let current = true;
    if (id === undefined) setImage(null);
    else void loadImage(id).then((found) => current && setImage(found));
    return () => void (current = false);
  }, [id]);
  // An image that was loaded before is there at once, so that nothing flickers.
  return image && image.file.id === id ? image : ((id !== undefined && ready.get(id)) || null);
}

/** The image behind a link where this page may read it, else a tile with its name: only the server opens that one. */
export function LinkImage({ link, alt }: { link: string; alt: string }) {
  const [failed, setFailed] = useState(false);
  if (readable(link) && !failed) {
    return <img class="thumbnail" src={ownPath(link)} alt={alt} loading="lazy" draggable={false} onError={() => setFailed(true)} />;
  }
  const [host, file] = placeOf(link);
  return (
    <span
      class="thumbnail linked"
      role={alt ? "img" : undefined}
      aria-label={alt || undefined}
      aria-hidden={alt ? undefined : true}
      title={`${link.slice(0, 300)}\n${w().linkShown}`}
    >
      <svg viewBox="0 0 24 24" aria-hidden="true">
        <path d="M10 14a4 4 0 0 0 6 .4l3-3a4 4 0 0 0-5.700-5.600l-1.600 1.600M14 10a4 4 0 0 0-6-.4l-3 3a4 4 0 0 0 5.700 5.600l1.600-1.600" />
      </svg>
      <span>{file}</span>
      <small>{host}</small>
    </span>
  );
}

/** Host and file name of a link, as far as it has them. */
function placeOf(link: string): [string, string] {
  try {
    const { host, pathname } = new URL(link);
    return [host, decodeURIComponent(pathname.split("/").pop() ?? "")];
  } catch {
    return ["", link.slice(0, 40)];
  }
}

interface TabsProps<Name extends string> {
  label: string;
  names: readonly Name[];
  titles?: Partial<Record<Name, string>>;
  chosen: Name;
  onChoose: (name: Name) => void;
  children: ComponentChildren;
  quiet?: boolean;
}

/** Tabs with one panel; arrow keys, Home and End move between them. */
export function Tabs<Name extends string>({ label, names, titles, chosen, onChoose, children, quiet }: TabsProps<Name>) {
  const id = useId();
  const list = useRef<HTMLDivElement>(null);
  const onKeyDown = (event: KeyboardEvent) => {
    const at = names.indexOf(chosen);
    const moves: Record<string, number> = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: names.length - 1 };
    const to = moves[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const index = (to + names.length) % names.length;
    onChoose(names[index] as Name);
    (list.current?.children[index] as HTMLElement).focus();
  };
  return (
    <>
      <div role="tablist" aria-label={label} ref={list} onKeyDown={onKeyDown} class={quiet ? "tabs quiet" : "tabs"}>
        {names.map((name) => (
          <button
            key={name}
            type="button"
            role="tab"
            id={`${id}-${name}`}
            aria-selected={name === chosen}
            aria-controls={`${id}-panel`}
            tabIndex={name === chosen ? 0 : -1}
            onClick={() => onChoose(name)}
          >
            {titles?.[name] ?? name}
          </button>
        ))}
      </div>
      <div role="tabpanel" id={`${id}-panel`} aria-labelledby={`${id}-${chosen}`} class="tab-panel">
        {children}
      </div>
    </>
  );
}

interface DialogProps {
  title: string;
  onClose: () => void;
  children: ComponentChildren;
  wide?: boolean;
}

export function Dialog({ title, onClose, children, wide }: DialogProps) {
  const element = useRef<HTMLDialogElement>(null);
  const id = useId();
  useEffect(() => {
    const dialog = element.current;
    dialog?.showModal();
    return () => dialog?.close();
  }, []);
  const onCancel = (event: Event) => {
    event.preventDefault();
    onClose();
  };
  return (
    <dialog ref={element} aria-labelledby={id} onCancel={onCancel} class={wide ? "wide" : ""}>
      <header class="dialog-head">
        <h2 id={id}>{title}</h2>
        <button type="button" class="quiet" onClick={onClose} aria-label={w().close}>
          ×
        </button>
      </header>
      {children}
    </dialog>
  );
}
