/** As much of an ELF file as tells where it comes from (elf(5)); 64 bits, little-endian, as BPF objects of ours are. */
import { readFileSync } from 'node:fs';

const HEADER = { sectionsAt: 40, sectionSize: 58, sections: 60, namesIndex: 62 } as const;
const SECTION = { name: 0, offset: 24, size: 32 } as const;

/** The text in a section such as `.comment`, where compilers leave their names; undefined if there is none. */
export function sectionText(path: string, name: string): string | undefined {
  const file = readFileSync(path);
  try {
    return find(file, name);
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}

function find(file: Buffer, name: string): string | undefined {
  const start = Number(file.readBigUInt64LE(HEADER.sectionsAt));
  const size = file.readUInt16LE(HEADER.sectionSize);
  const at = (index: number) => start + index * size;
  const contents = (header: number) => {
    const offset = Number(file.readBigUInt64LE(header + SECTION.offset));
    return file.subarray(offset, offset + Number(file.readBigUInt64LE(header + SECTION.size)));
  };
  const names = contents(at(file.readUInt16LE(HEADER.namesIndex)));
  for (let index = 0; index < file.readUInt16LE(HEADER.sections); index++) {
    const header = at(index);
    const nameAt = file.readUInt32LE(header + SECTION.name);
    if (text(names.subarray(nameAt)) === name) return text(contents(header));
  }
  return undefined;
}

/** Up to the first zero byte. */
function text(bytes: Buffer): string {
  const end = bytes.indexOf(0);
  return bytes.toString('utf8', 0, end < 0 ? bytes.length : end);
}
