/** As much of an ELF file as tells where it comes from (elf(5)); 64 bits, little-endian, as BPF objects of ours are. */
import { readFileSync } from 'node:fs';
import { cString } from './c-string.ts';

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
    if (cString(names.subarray(nameAt)) === name) return cString(contents(header));
  }
  return undefined;
}
