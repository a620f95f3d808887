// Where a person enters the server's key. It is kept in this browser and sent as `Authorization`.

import { useEffect, useRef, useState } from "preact/hooks";
import { readKey } from "./api";
import { saveKey } from "./start";
import { closeKeyQuestion, w, type State } from "./state";
import { Dialog } from "./ui";

export function KeyDialog({ reason }: { reason: NonNullable<State["keyAsked"]> }) {
  const [key, setKey] = useState(readKey());
  const field = useRef<HTMLInputElement>(null);
  const text = w();
  useEffect(() => field.current?.focus(), []);
  return (
    <Dialog title={reason === "chosen" ? text.keyChosen : text.keyTitle} onClose={closeKeyQuestion}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void saveKey(key);
        }}
      >
        {reason === "refused" && (
          <p class="problem" role="alert">
            {text.keyRefused}
          </p>
        )}
        <label class="field">
          <span>{text.keyLabel}</span>
          <input
            type="password"
            autocomplete="off"
            value={key}
            onInput={(event) => setKey(event.currentTarget.value)}
            ref={field}
          />
        </label>
        <p class="hint">{text.keyHint}</p>
        <div class="row">
          <button type="submit" class="primary">
            {text.save}
          </button>
        </div>
      </form>
    </Dialog>
  );
}
