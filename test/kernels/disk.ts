/** Folders as disks for a virtual machine, without mounting anything. */
import { rmSync } from 'node:fs';
import { run } from '../programs.ts';

/** Makes an ext4 file system that holds the folder's content, with features that kernels from 5.10 on know. */
export function makeDisk(folder: string, file: string): void {
  rmSync(file, { force: true });
  const megabytes = Number(run('du', ['-sm', folder]).split('\t')[0]);
  const size = `${Math.ceil(megabytes * 1.3) + 64}M`;
  run('mke2fs', ['-q', '-t', 'ext4', '-O', '^metadata_csum,^orphan_file,^has_journal', '-d', folder, file, size]);
}
