// Two runs beside each other, with a table of their parameters; what differs is marked.

import type { ComponentChildren } from "preact";
import { shortName, update, w, type Run } from "./state";
import { LinkImage, useFile } from "./ui";
import { Viewer } from "./viewer";

export function Comparison({ a, b }: { a: Run; b: Run }) {
  const text = w();
  const [first, second] = [useFile(a.results[0]), useFile(b.results[0])];
  const [one, other] = [rowsOf(a, b), rowsOf(b, a)];
  return (
    <>
      <Viewer before={first} after={second} names={[text.runA, text.runB]} />
      <div class="comparison">
        <table>
          <thead>
            <tr>
              <th scope="col">{text.parameter}</th>
              <th scope="col">{text.runA}</th>
              <th scope="col">{text.runB}</th>
            </tr>
          </thead>
          <tbody>
            <Row name={text.images} same={sameInputs(a, b)} cells={[<Inputs run={a} />, <Inputs run={b} />]} />
            {one.map(([name, value], index) => {
              const against = other[index]?.[1] ?? "";
              return <Row key={name} name={name} same={value === against} cells={[value, against]} />;
            })}
          </tbody>
        </table>
        <button type="button" onClick={() => update({ compared: null })}>
          {text.stopComparing}
        </button>
      </div>
    </>
  );
}

function Row({ name, same, cells }: { name: string; same: boolean; cells: ComponentChildren[] }) {
  return (
    <tr class={same ? "" : "changed"}>
      <th scope="row">
        {name}
        {!same && <em>{w().changed}</em>}
      </th>
      {cells.map((cell, index) => (
        <td key={index}>{cell}</td>
      ))}
    </tr>
  );
}

function Inputs({ run }: { run: Run }) {
  return (
    <div class="input-cell">
      {run.draft.inputs.map((input, index) =>
        "file" in input ? <InputImage key={index} id={input.file} /> : <LinkImage key={index} link={input.link} alt={w().image(index + 1)} />,
      )}
    </div>
  );
}

function InputImage({ id }: { id: string }) {
  const image = useFile(id);
  return image && <img src={image.thumbnail} alt={image.file.name} />;
}

const sameInputs = (a: Run, b: Run): boolean => JSON.stringify(a.draft.inputs) === JSON.stringify(b.draft.inputs);

/** The parameters of a run; of those without a fixed place, the ones that either of the two has set. */
function rowsOf(run: Run, other: Run): [string, string][] {
  const text = w();
  const names = new Set([...Object.keys(run.draft.values), ...Object.keys(other.draft.values)].sort());
  names.delete("seed");
  return [
    [text.instruction, run.draft.prompt],
    [text.model, shortName(run.draft.endpoint)],
    [text.fields["seed"] ?? "seed", run.seed ?? ""],
    ...[...names].map((name): [string, string] => [text.fields[name] ?? name, written(run.draft.values[name])]),
    [text.seconds, run.seconds === null ? "" : run.seconds.toFixed(1)],
  ];
}

function written(value: unknown): string {
  if (value === undefined) return w().automatic;
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
