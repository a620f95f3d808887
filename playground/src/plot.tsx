// A small plot of values over time. What it shows stands in words beside it; the drawing itself is not read aloud.

export interface Line {
  values: (number | null)[];
  /** The second line of a plot is drawn in another colour, dashed. */
  second?: boolean;
}

interface PlotProps {
  times: number[];
  lines: Line[];
  /** Labels of the first and the last moment, and of the top. */
  marks?: { from: string; to: string; top: string };
  small?: boolean;
}

const WIDTH = 100;
const HEIGHT = 40;

export const largest = (lines: Line[]): number => Math.max(0, ...lines.flatMap(({ values }) => values.map((value) => value ?? 0)));

export function Plot({ times, lines, marks, small }: PlotProps) {
  const first = times[0] ?? 0;
  const span = Math.max(1, (times.at(-1) ?? 0) - first);
  const top = largest(lines) || 1;
  const place = (index: number, value: number) => {
    const x = (((times[index] ?? first) - first) / span) * WIDTH;
    return `${x.toFixed(2)},${(HEIGHT - 1 - (value / top) * (HEIGHT - 3)).toFixed(2)}`;
  };
  return (
    <div class={small ? "plot small" : "plot"} aria-hidden="true">
      {marks && <span class="top">{marks.top}</span>}
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none">
        {!small && <line class="rule" x1={0} x2={WIDTH} y1={2} y2={2} />}
        <line class="rule" x1={0} x2={WIDTH} y1={HEIGHT - 1} y2={HEIGHT - 1} />
        {lines.map(({ values, second }, line) =>
          runsOf(values).map((part) => {
            const points = part.map(([index, value]) => place(index, value));
            const [begin, end] = [points[0]?.split(",")[0], points.at(-1)?.split(",")[0]];
            return (
              <g key={`${line} ${part[0]?.[0]}`} class={second ? "second" : ""}>
                {!second && <polygon points={`${begin},${HEIGHT - 1} ${points.join(" ")} ${end},${HEIGHT - 1}`} />}
                <polyline points={points.join(" ")} />
              </g>
            );
          }),
        )}
      </svg>
      {marks && (
        <span class="times">
          <span>{marks.from}</span>
          <span>{marks.to}</span>
        </span>
      )}
    </div>
  );
}

/** The stretches of values between gaps, each as places and values. */
function runsOf(values: (number | null)[]): [number, number][][] {
  const found: [number, number][][] = [];
  let open = false;
  for (const [index, value] of values.entries()) {
    if (value === null) open = false;
    else if (open) found.at(-1)?.push([index, value]);
    else {
      found.push([[index, value]]);
      open = true;
    }
  }
  return found;
}
