/** A block of lines that is drawn over itself on a terminal, and one after the other elsewhere. */
export class Screen {
  readonly #live = process.stdout.isTTY === true;
  #height = 0;

  show(lines: readonly string[]): void {
    const up = this.#live && this.#height > 0 ? `\x1b[${this.#height}A\x1b[J` : '';
    process.stdout.write(`${up}${lines.join('\n')}\n${this.#live ? '' : '\n'}`);
    this.#height = lines.reduce((rows, line) => rows + Math.max(1, Math.ceil(line.length / this.#columns())), 0);
  }

  close(): void {
    if (this.#live) process.stdout.write('\n');
  }

  #columns(): number {
    return process.stdout.columns || 80;
  }
}

/** Rows under their headings, as wide as they need be. */
export function table(headings: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const widths = headings.map((heading, column) => Math.max(heading.length, ...rows.map((row) => row[column]!.length)));
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, column) => cell.padEnd(widths[column]!))
      .join('  ')
      .trimEnd();
  return [line(headings), ...rows.map(line)];
}
