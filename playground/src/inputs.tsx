// The images of an edit, in their order: added, moved, removed, and the first of them marked with a mask.

import { useId, useRef, useState } from "preact/hooks";
import { MaskDialog } from "./maskdialog";
import { addFiles, addLink, change, moveInput, removeInput, showSample } from "./draft";
import { currentEndpoint, useApp, w, type Input } from "./state";
import { noticesOfInput, noticesOfInputs } from "./notices";
import { LinkImage, useFile } from "./ui";

export function Inputs() {
  const app = useApp();
  const text = w();
  const id = useId();
  const [link, setLink] = useState("");
  const [masking, setMasking] = useState(false);
  const dragged = useRef<number | null>(null);
  const { inputs, mask } = app.draft;
  const first = inputs[0];
  const field = currentEndpoint()?.imageField ?? "";
  const problem = app.problems[field] ?? app.problems["image_urls"] ?? app.problems["image_url"];
  const submitLink = () => {
    if (!/^(https?|data):/.test(link.trim())) return;
    void addLink(link.trim());
    setLink("");
  };
  return (
    <div class="inputs">
      {inputs.length > 0 && (
        <ol class="thumbnails">
          {inputs.map((input, index) => (
            <li
              key={keyOf(inputs, index)}
              draggable={inputs.length > 1}
              onDragStart={() => void (dragged.current = index)}
              onDragOver={(event) => dragged.current !== null && event.preventDefault()}
              onDrop={(event) => {
                if (dragged.current === null) return;
                event.preventDefault();
                event.stopPropagation();
                moveInput(dragged.current, index);
                dragged.current = null;
              }}
              onDragEnd={() => void (dragged.current = null)}
            >
              <Thumbnail input={input} index={index} />
              <div class="thumbnail-actions">
                {inputs.length > 1 && (
                  <>
                    <button type="button" disabled={index === 0} aria-label={text.earlier(index + 1)} onClick={() => moveInput(index, index - 1)}>
                      ←
                    </button>
                    <button
                      type="button"
                      disabled={index === inputs.length - 1}
                      aria-label={text.later(index + 1)}
                      onClick={() => moveInput(index, index + 1)}
                    >
                      →
                    </button>
                  </>
                )}
                <button type="button" aria-label={text.take(index + 1)} onClick={() => removeInput(index)}>
                  ×
                </button>
              </div>
            </li>
          ))}
        </ol>
      )}
      <div class="row add">
        <label class="button" for={id}>
          {text.images}
        </label>
        <input
          id={id}
          class="visually-hidden"
          type="file"
          multiple
          accept="image/*"
          aria-invalid={Boolean(problem)}
          onChange={(event) => {
            const files = [...(event.currentTarget.files ?? [])];
            event.currentTarget.value = "";
            void addFiles(files);
          }}
        />
        {first && "file" in first && (
          <button type="button" class="quiet" onClick={() => setMasking(true)}>
            {mask ? text.masked : text.paint}
          </button>
        )}
        {inputs.length === 0 && (
          <button type="button" class="quiet" onClick={() => void showSample()}>
            {text.sample}
          </button>
        )}
        <details class="link">
          <summary>{text.linkShort}</summary>
          <div class="row">
            <input
              type="url"
              aria-label={text.link}
              placeholder="https://…"
              value={link}
              onInput={(event) => setLink(event.currentTarget.value)}
              onKeyDown={(event) => {
                if (event.key !== "Enter") return;
                event.preventDefault();
                submitLink();
              }}
            />
            <button type="button" onClick={submitLink}>
              {text.addLink}
            </button>
          </div>
        </details>
      </div>
      <p class="hint">{text.imagesHint}</p>
      {noticesOfInputs().map((notice) => (
        <p key={notice.detail} class="note">
          {notice.detail}
        </p>
      ))}
      {app.imageNote && (
        <p class="note" aria-live="polite">
          {app.imageNote}
        </p>
      )}
      {problem && (
        <p class="problem" role="alert">
          {problem}
        </p>
      )}
      {masking && first && "file" in first && (
        <MaskDialog
          file={first.file}
          mask={mask}
          onChange={(changed) => change({ mask: changed })}
          onClose={() => setMasking(false)}
        />
      )}
    </div>
  );
}

function Thumbnail({ input, index }: { input: Input; index: number }) {
  const text = w();
  const image = useFile("file" in input ? input.file : undefined);
  return (
    <figure>
      {"link" in input ? (
        <LinkImage link={input.link} alt={text.image(index + 1)} />
      ) : (
        <img class="thumbnail" src={image?.thumbnail} alt={text.image(index + 1)} title={image?.file.name} draggable={false} />
      )}
      <figcaption>
        {text.image(index + 1).toLowerCase()}
        {image && (
          <small>
            {image.file.width} × {image.file.height}
          </small>
        )}
      </figcaption>
      {noticesOfInput(index).map((notice) => (
        <p key={notice.detail} class="note">
          {notice.detail}
        </p>
      ))}
    </figure>
  );
}

/** The same for an image wherever it stands; the same image given twice has two. */
function keyOf(inputs: Input[], index: number): string {
  const names = inputs.map((input) => ("file" in input ? input.file : input.link));
  const earlier = names.slice(0, index).filter((name) => name === names[index]).length;
  return `${names[index] ?? ""} ${earlier}`;
}
