// What the page says, in English and Chinese.
import { keep, kept } from "./chats.js";

const STRINGS = {
  en: {
    name: "English", other: "中文", chats: "Chats", newChat: "New chat", menu: "Chats", settings: "Settings", model: "Model",
    dark: "Dark", light: "Light", theme: "Light or dark", language: "Language", close: "Close", send: "Send", stop: "Stop (Esc)",
    ask: "Write a message", askPlain: "Write a beginning", you: "You", answer: "Answer", hello: "What would you like to know?",
    helloPlain: "Write a beginning; the model goes on.", hint: "Enter sends, Shift+Enter begins a line, Esc stops.",
    hintTouch: "Answers may be wrong.", plain: "{model} was trained on plain text, not on chats: it continues what you write. The system prompt is not used.",
    copy: "Copy", copied: "Copied", notCopied: "The browser did not allow copying", regenerate: "Another answer", edit: "Edit", save: "Send",
    cancel: "Cancel", before: "The one before", after: "The next one", of: "{number} of {count}", continue: "Continue", toEnd: "To the end",
    delete: "Delete “{title}”", deleted: "Deleted “{title}”", undo: "Undo", untitled: "New chat", thinking: "Thinking …",
    thought: "Thought for {s} s", calls: "Calls {name}", answering: "Answering", waiting: "Waiting for the first token …",
    tokens: "{count} tokens", oneToken: "1 token", rate: "{rate} tokens/s", first: "first after {s} s", prompt: "prompt {count}", cached: "{count} of them reused",
    leftOut: "The oldest {count} messages were left out: the context is full.", leftOutOne: "The oldest message was left out: the context is full.",
    length: "Stopped at the limit of tokens.", stopped: "You stopped this answer.", interrupted: "This answer was interrupted.", empty: "The model ended without a word.",
    lost: "The connection was lost before the answer ended.", offline: "The server does not answer. Is it still running?",
    busy: "The server is busy.", busyIn: "The server is busy. Trying again in {s} s.", now: "Try now", again: "Try again",
    refused: "The server refused this: {message}", failed: "The server failed: {message}", keyNeeded: "The server wants an API key.",
    keyWrong: "The server does not accept this key.", key: "API key", keyNote: "It is kept until you close this tab, and sent to this server only.",
    enter: "Enter", noModel: "The server offers no model.", full: "The browser’s store is full: delete chats to keep new ones.",
    noStore: "The browser keeps nothing for this page: chats are lost when you close it.",
    system: "System prompt", temperature: "Temperature", topP: "Top-p", maxTokens: "Most tokens in an answer", seed: "Seed", stops: "Stop strings, one per line",
    asModel: "as the model’s", settingsNote: "What is left empty is as the model’s author set it.", wrong: "From {low} to {high}", reset: "Empty all",
    skip: "To the message box", messages: "Messages", plainText: "plain text",
  },
  zh: {
    name: "中文", other: "English", chats: "对话", newChat: "新对话", menu: "对话列表", settings: "设置", model: "模型",
    dark: "深色", light: "浅色", theme: "浅色或深色", language: "语言", close: "关闭", send: "发送", stop: "停止（Esc）",
    ask: "输入消息", askPlain: "写一个开头", you: "你", answer: "回答", hello: "想聊点什么？",
    helloPlain: "写一个开头，模型会接着写。", hint: "回车发送，Shift+回车换行，Esc 停止。",
    hintTouch: "回答可能有误。", plain: "{model} 是用纯文本训练的，不是对话模型：它会接着你写的内容往下写。系统提示不起作用。",
    copy: "复制", copied: "已复制", notCopied: "浏览器不允许复制", regenerate: "重新回答", edit: "编辑", save: "发送",
    cancel: "取消", before: "上一个", after: "下一个", of: "第 {number} 个，共 {count} 个", continue: "继续", toEnd: "到末尾",
    delete: "删除“{title}”", deleted: "已删除“{title}”", undo: "撤销", untitled: "新对话", thinking: "思考中……",
    thought: "思考了 {s} 秒", calls: "调用 {name}", answering: "正在回答", waiting: "等待第一个词元……",
    tokens: "{count} 个词元", oneToken: "1 个词元", rate: "{rate} 词元/秒", first: "首个用时 {s} 秒", prompt: "提示 {count}", cached: "其中 {count} 个复用",
    leftOut: "上下文已满，最早的 {count} 条消息没有发给模型。", leftOutOne: "上下文已满，最早的一条消息没有发给模型。",
    length: "已达词元上限。", stopped: "你停止了这个回答。", interrupted: "这个回答中断了。", empty: "模型没有说话就结束了。",
    lost: "回答还没结束，连接就断开了。", offline: "服务器没有响应。它还在运行吗？",
    busy: "服务器繁忙。", busyIn: "服务器繁忙，{s} 秒后重试。", now: "立即重试", again: "重试",
    refused: "服务器拒绝了请求：{message}", failed: "服务器出错：{message}", keyNeeded: "服务器需要 API 密钥。",
    keyWrong: "服务器不接受这个密钥。", key: "API 密钥", keyNote: "只保留到关闭此标签页为止，并且只发给这台服务器。",
    enter: "确定", noModel: "服务器没有提供模型。", full: "浏览器存储已满：请删除一些对话，才能保存新的。",
    noStore: "浏览器不为此页面保存数据：关闭后对话会丢失。",
    system: "系统提示", temperature: "温度", topP: "Top-p", maxTokens: "回答的最多词元数", seed: "随机种子", stops: "停止字符串，每行一个",
    asModel: "与模型一致", settingsNote: "留空的项目按模型作者的设定。", wrong: "应在 {low} 到 {high} 之间", reset: "全部清空",
    skip: "跳到输入框", messages: "消息", plainText: "纯文本",
  },
};

const wished = kept("language") ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
let language = wished in STRINGS ? wished : "en";

export function t(key, values = {}) {
  return STRINGS[language][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

export const number = (value, digits = 0) =>
  value.toLocaleString(language, { minimumFractionDigits: digits, maximumFractionDigits: digits });

export function otherLanguage() {
  language = language === "en" ? "zh" : "en";
  keep("language", language);
  translate();
}

/** Put the strings into the page: `data-t` names a text, `data-label` an accessible name, `data-hint` a placeholder. */
export function translate() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of document.querySelectorAll("[data-hint]")) element.placeholder = t(element.dataset.hint);
  for (const element of document.querySelectorAll("[data-label]")) {
    element.title = t(element.dataset.label);
    element.setAttribute("aria-label", element.title);
  }
}
