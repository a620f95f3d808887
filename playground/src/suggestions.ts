// Instructions that work on the loaded model. Those of the demo are from its model card
// (src/retouch/demo_model/README.md, "What it does"); a test compares the two.

import type { Language } from "./words";

export interface Suggestions {
  first: string;
  more: string[];
  /** Of two images; null where the model has none that is sure to work. */
  twoImages: string | null;
}

const DEMO: Record<Language, Suggestions> = {
  en: {
    first: "make it look like an old sepia photograph",
    more: [
      "make it grayscale",
      "invert the colors",
      "make it warmer",
      "mirror it left to right",
      "turn it by 180 degrees",
      "add a red border",
      "pixelate it",
      "put a blue square in the middle",
      "add a vignette",
      "make the colors more saturated",
    ],
    twoImages: "use the colors of the second picture",
  },
  zh: {
    first: "做成复古的棕褐色照片",
    more: [
      "请把这张照片变成黑白的",
      "把颜色反转一下",
      "让色调暖一些",
      "把图片左右翻转",
      "把照片旋转一百八十度",
      "给图片加一个蓝色边框",
      "给图片打上马赛克",
      "在图片正中间画一个红色方块",
      "添加暗角效果",
      "让颜色更鲜艳",
    ],
    twoImages: "让第一张图的整体色调和第二张一样",
  },
};

const LARGE: Record<Language, Suggestions> = {
  en: {
    first: "make it snow",
    more: [
      "turn it into a watercolor painting",
      "replace the background with a beach at sunset",
      "remove the people in the background",
      "change the season to autumn",
      "make it a black and white film photograph",
    ],
    twoImages: "put the object of image 2 into image 1",
  },
  zh: {
    first: "让画面下雪",
    more: ["变成水彩画", "把背景换成日落的海滩", "去掉背景里的路人", "把季节改成秋天", "变成黑白胶片照片"],
    twoImages: "把图2的物体放进图1",
  },
};

export const isDemo = (model: string): boolean => model === "demo" || model === "null" || model === "";

export const suggestionsFor = (model: string, language: Language): Suggestions =>
  (isDemo(model) ? DEMO : LARGE)[language];

/** Mean difference to the input, 0 to 255, below which an answer counts as unchanged. The demo answers what it does
 *  not understand with nearly the same image; its autoencoder alone accounts for about one level. */
export const UNCHANGED = 2;
