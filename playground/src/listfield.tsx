// A parameter that is a list, such as LoRAs: one row an entry, with a box for each of its members.

import { setValue } from "./draft";
import { membersOf, type Property } from "./schema";
import { update, useApp, w } from "./state";

interface ListProps {
  id: string;
  name: string;
  property: Property;
}

type Entry = string | Record<string, unknown>;

export function ListField({ id, name, property }: ListProps) {
  const app = useApp();
  const text = w();
  const entries = (app.draft.values[name] as Entry[] | undefined) ?? [];
  const members = membersOf(property);
  const full = property.maxItems !== undefined && entries.length >= property.maxItems;
  const write = (changed: Entry[]) => setValue(name, changed.length ? changed : undefined);
  const replace = (index: number, entry: Entry) => write(entries.map((old, at) => (at === index ? entry : old)));
  return (
    <div class="entries">
      {entries.map((entry, index) => (
        <div key={index} class="entry" role="group" aria-label={text.entry(index + 1)}>
          {members.map(([member, { type, default: standard, minimum, maximum }]) => {
            const value = member === "" ? entry : (entry as Record<string, unknown>)[member];
            const number = type === "number" || type === "integer";
            return (
              <label key={member} class={number ? "member number" : "member"}>
                <span>{text.members[member] ?? member}</span>
                <input
                  type="text"
                  inputMode={number ? "decimal" : "text"}
                  role={number ? "spinbutton" : undefined}
                  aria-valuemin={minimum}
                  aria-valuemax={maximum}
                  placeholder={String(standard ?? "")}
                  value={value === undefined ? "" : String(value)}
                  onInput={(event) => {
                    const typed = event.currentTarget.value;
                    if (member === "") replace(index, typed);
                    else replace(index, { ...(entry as Record<string, unknown>), [member]: typed === "" ? undefined : typed });
                  }}
                />
              </label>
            );
          })}
          <button
            type="button"
            class="quiet"
            aria-label={text.removeEntry(index + 1)}
            onClick={() => {
              write(entries.filter((_, at) => at !== index));
              update({ announcement: text.entryRemoved(index + 1) });
            }}
          >
            ×
          </button>
        </div>
      ))}
      <button
        type="button"
        id={id}
        disabled={full}
        onClick={() => write([...entries, members[0]?.[0] === "" ? "" : {}])}
      >
        {text.addEntry}
      </button>
    </div>
  );
}
