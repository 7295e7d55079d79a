/**
 * The log: one line an event on standard output. The message carries its fields as text in both formats, so that one
 * grep finds the line in either; JSON has them beside it as well.
 */
import pino from 'pino';
import { writeLine } from './output.ts';

export type LogLevel = 'trace' | 'debug' | 'info' | 'warn' | 'error';
export type LogFormat = 'text' | 'json';
export type Fields = Readonly<Record<string, string | number | boolean>>;

type Write = (message: string, fields?: Fields) => void;
export type Log = Readonly<Record<LogLevel, Write>>;

/** The agent's own log, whose level and format may change. */
export interface OpenedLog extends Log {
  follow(level: LogLevel, format: LogFormat): void;
}

/** `write` takes whole lines; by default they go to standard output. */
export function openLog(level: LogLevel, format: LogFormat, write: (line: string) => void = writeLine): OpenedLog {
  let isJson = format === 'json';
  const logger = pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label.toUpperCase() }) },
    },
    { write: (line: string) => write(isJson ? line : textLine(line)) },
  );
  const at =
    (name: LogLevel): Write =>
    (message, fields = {}) =>
      logger[name](fields, withFields(message, fields));
  return {
    ...{ trace: at('trace'), debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') },
    follow: (nextLevel, nextFormat) => {
      logger.level = nextLevel;
      isJson = nextFormat === 'json';
    },
  };
}

function withFields(message: string, fields: Fields): string {
  return Object.entries(fields).reduce((text, [key, value]) => `${text} ${key}=${JSON.stringify(value)}`, message);
}

function textLine(json: string): string {
  const { time, level, msg } = JSON.parse(json) as { time: string; level: string; msg: string };
  return `${time} ${level} ${msg.replaceAll('\n', ' ')}\n`;
}
