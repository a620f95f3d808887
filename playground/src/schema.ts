// The endpoints as the server's OpenAPI document describes them. Nothing about a parameter is known in advance but
// how its widget looks: names, order, defaults and ranges are the document's.

export interface Property {
  type?: "string" | "integer" | "number" | "boolean" | "array" | "object";
  description?: string;
  default?: unknown;
  minimum?: number;
  maximum?: number;
  maxLength?: number;
  maxItems?: number;
  enum?: string[];
  anyOf?: { enum?: string[]; $ref?: string }[];
  /** Of a list: what its entries are. */
  items?: Property;
  /** Of an object. */
  properties?: Record<string, Property>;
  required?: string[];
  $ref?: string;
}

export interface Endpoint {
  id: string;
  properties: Record<string, Property>;
  required: string[];
  /** The field that takes the images, and how many of them. */
  imageField: "image_url" | "image_urls";
  maxImages: number;
  /** The field that takes a mask, where the endpoint has one. */
  maskField: string | null;
}

interface Document {
  paths: Record<string, { post?: { requestBody?: { content: Record<string, { schema: { $ref: string } }> } } }>;
  components: { schemas: Record<string, Property & { properties: Record<string, Property> }> };
}

export function endpointsOf(document: Document): Endpoint[] {
  const found: Endpoint[] = [];
  for (const [path, item] of Object.entries(document.paths)) {
    const ref = item.post?.requestBody?.content["application/json"]?.schema.$ref;
    if (!path.startsWith("/run/") || !ref) continue;
    const schema = document.components.schemas[ref.split("/").pop() ?? ""];
    if (!schema) continue;
    const several = "image_urls" in schema.properties;
    const resolved = ({ items, ...rest }: Property): Property =>
      items ? { ...rest, items: items.$ref ? document.components.schemas[items.$ref.split("/").pop() ?? ""] : items } : rest;
    found.push({
      id: path.slice("/run/".length),
      properties: Object.fromEntries(Object.entries(schema.properties).map(([name, each]) => [name, resolved(each)])),
      required: schema.required ?? [],
      imageField: several ? "image_urls" : "image_url",
      maxImages: several ? (schema.properties["image_urls"]?.maxItems ?? 1) : 1,
      maskField: Object.keys(schema.properties).find((name) => /^mask(_image)?_url$/.test(name)) ?? null,
    });
  }
  return found;
}

/** The owner and app of an endpoint id: status, result and cancel of its requests live under them. */
export const appOf = (id: string): string => id.split("/").slice(0, 2).join("/");

/** What an entry of a list is made of, by name; one without a name where entries are plain values. */
export const membersOf = (property: Property): [string, Property][] =>
  property.items?.properties ? Object.entries(property.items.properties) : [["", property.items ?? { type: "string" }]];

/** Fields that have a widget of their own, outside the generated form. */
export const placedElsewhere = (endpoint: Endpoint): Set<string> =>
  new Set(["prompt", endpoint.imageField, ...(endpoint.maskField ? [endpoint.maskField] : [])]);

/** Fields that most people set; all others are folded away. */
const COMMON = ["loras", "image_size", "num_images", "seed", "num_inference_steps", "output_format"];

export const isCommon = (name: string): boolean => COMMON.includes(name);

export function sizeNames(property: Property): string[] {
  return property.anyOf?.find((option) => option.enum)?.enum ?? [];
}

/** Some endpoints keep the input's very size, where others keep its shape; their description says which. */
export const keepsSize = (property: Property | undefined): boolean =>
  /the size of the last input/i.test(property?.description ?? "");

/** Pixels of fal's named sizes, for display beside their names. */
export const NAMED_SIZES: Record<string, [number, number]> = {
  square_hd: [1024, 1024],
  square: [512, 512],
  portrait_4_3: [768, 1024],
  portrait_16_9: [576, 1024],
  landscape_4_3: [1024, 768],
  landscape_16_9: [1024, 576],
};

/** The endpoint to move to when there are more images than the present one takes: of those that take enough, one
 *  whose answer keeps the shape of its input is preferred, because no other shape was requested. */
export function endpointFor(count: number, endpoints: Endpoint[]): Endpoint | undefined {
  const enough = endpoints.filter((endpoint) => endpoint.maxImages >= count);
  return enough.find((endpoint) => endpoint.properties["image_size"]?.default === undefined) ?? enough[0];
}

/** What is wrong with a value before it is sent; null when it fits. typing: what is still missing is no mistake yet. */
export function complaint(property: Property, value: unknown, words: Complaints, typing = false): string | null {
  if (value === undefined || value === "") return null;
  if (property.type === "array") return Array.isArray(value) ? complaintOfList(property, value, words, typing) : words.list;
  if (property.type === "integer" || property.type === "number") {
    const text = String(value).trim();
    const number = Number(text);
    if (!Number.isFinite(number)) return words.number;
    if (property.type === "integer" && !/^-?\d+$/.test(text)) return words.whole;
    if (property.minimum !== undefined && number < property.minimum) return words.least(property.minimum);
    if (property.maximum !== undefined && number > property.maximum) return words.most(property.maximum);
  }
  if (property.type === "string" && property.maxLength && String(value).length > property.maxLength) {
    return words.length(property.maxLength);
  }
  return null;
}

function complaintOfList(property: Property, entries: unknown[], words: Complaints, typing: boolean): string | null {
  for (const [index, entry] of entries.entries()) {
    for (const [name, member] of membersOf(property)) {
      const value = name === "" ? entry : (entry as Record<string, unknown>)[name];
      const missing = !typing && (name === "" || property.items?.required?.includes(name)) && (value === undefined || value === "");
      const problem = missing ? words.missing(name) : complaint(member, value, words);
      if (problem) return words.entry(index + 1, problem);
    }
  }
  return null;
}

export interface Complaints {
  list: string;
  missing: (name: string) => string;
  entry: (n: number, text: string) => string;
  number: string;
  whole: string;
  least: (limit: number) => string;
  most: (limit: number) => string;
  length: (limit: number) => string;
}
