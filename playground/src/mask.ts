// A mask as strokes: drawn small on the screen, rendered at the image's full size when it is needed.

export interface Stroke {
  /** Brush diameter and points as parts of the image's width and height, so that no size is lost. */
  size: number;
  points: [number, number][];
}

/** Paint the marked area in white on a transparent canvas of that size. */
export function renderMask(strokes: Stroke[], inverted: boolean, width: number, height: number): OffscreenCanvas {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d") as OffscreenCanvasRenderingContext2D;
  context.lineCap = context.lineJoin = "round";
  context.strokeStyle = context.fillStyle = "#fff";
  for (const { size, points } of strokes) {
    const [first, ...rest] = points;
    if (!first) continue;
    context.beginPath();
    // A line has round ends, but one without length is not drawn at all.
    context.arc(first[0] * width, first[1] * height, (size * width) / 2, 0, 2 * Math.PI);
    context.fill();
    context.beginPath();
    context.lineWidth = size * width;
    context.moveTo(first[0] * width, first[1] * height);
    for (const [x, y] of rest) context.lineTo(x * width, y * height);
    context.stroke();
  }
  if (inverted) {
    context.globalCompositeOperation = "source-out";
    context.fillRect(0, 0, width, height);
  }
  return canvas;
}

/** As the OpenAI protocol has it: transparent where the edit goes, opaque where the image stays. */
export async function maskFile(strokes: Stroke[], inverted: boolean, width: number, height: number): Promise<Blob> {
  return renderMask(strokes, !inverted, width, height).convertToBlob({ type: "image/png" });
}

/** The answer inside the mask, the original outside it; of the answer's size. */
export async function keepOutside(original: Blob, answer: Blob, mask: { strokes: Stroke[]; inverted: boolean }) {
  const [before, after] = await Promise.all([createImageBitmap(original), createImageBitmap(answer)]);
  const { width, height } = after;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d") as OffscreenCanvasRenderingContext2D;
  context.drawImage(renderMask(mask.strokes, mask.inverted, width, height), 0, 0);
  context.globalCompositeOperation = "source-in";
  context.drawImage(after, 0, 0);
  context.globalCompositeOperation = "destination-over";
  context.drawImage(before, 0, 0, width, height);
  return canvas.convertToBlob({ type: "image/png" });
}
