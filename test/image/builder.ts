/**
 * The image, built by buildah from the Dockerfile as it is. Its base is made here, by Debian's own bootstrap, and gets
 * the name that the Dockerfile asks for: no registry of images is needed.
 */
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ROOT, run } from '../programs.ts';

const IMAGE = 'localhost/udp-fanout:test';
/** Where the base has the certificate authorities of this machine, if it has some of its own. */
const AUTHORITIES = '/usr/local/share/authorities.crt';
const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** As Debian's slim images leave it out. */
const SLIM = ['man', 'info', 'locale', 'lintian', 'doc'].map((name) => `path-exclude=/usr/share/${name}/*`);

export interface ImageConfig {
  readonly User: string;
  readonly Env: readonly string[];
  readonly Entrypoint: readonly string[];
  readonly Cmd: readonly string[];
  readonly Labels: Readonly<Record<string, string>>;
}

/** The base's name in the Dockerfile, and Debian's release in it. */
export function baseOf(dockerfile: string): { readonly name: string; readonly suite: string } {
  const [, name, suite] = /^ARG BASE=(\S+\/debian:([a-z]+)\S*)$/m.exec(dockerfile) ?? [];
  if (name === undefined || suite === undefined) throw new Error('the Dockerfile names no base of Debian');
  return { name, suite };
}

/** A storage of images of its own, which leaves nothing. */
export class Builder implements Disposable {
  readonly #directory = mkdtempSync(join(tmpdir(), 'image-'));

  /** Makes the base, as lean as Debian's own slim images. */
  makeBase(): void {
    const { name, suite } = baseOf(readFileSync(join(ROOT, 'Dockerfile'), 'utf8'));
    const archive = join(this.#directory, 'base.tar');
    const options = [...SLIM, 'path-include=/usr/share/doc/*/copyright'].map((option) => `--dpkgopt=${option}`);
    run('mmdebstrap', ['--quiet', '--variant=minbase', ...options, suite, archive]);
    const made = this.#buildah('from', '--pull-never', 'scratch');
    this.#buildah('add', '--quiet', made, archive, '/');
    const authorities = process.env.NODE_EXTRA_CA_CERTS;
    if (authorities) {
      // A file of the storage's, since buildah follows no links out of its context.
      const file = join(this.#directory, 'authorities.crt');
      copyFileSync(authorities, file);
      this.#buildah('copy', '--quiet', made, file, AUTHORITIES);
    }
    const trust = authorities ? ['--env', `NODE_EXTRA_CA_CERTS=${AUTHORITIES}`] : [];
    this.#buildah('config', '--env', `PATH=${PATH}`, ...trust, '--cmd', 'bash', made);
    this.#buildah('commit', '--quiet', '--rm', made, name);
    rmSync(archive);
  }

  /** Builds the image. */
  build(): void {
    this.#buildah('bud', '--pull-never', '--tag', IMAGE, '.');
  }

  /** Its root file system; writing to it changes nothing but this directory. */
  unpacked(): string {
    return this.#buildah('mount', this.#buildah('from', '--pull-never', IMAGE));
  }

  config(): ImageConfig {
    const { OCIv1 } = JSON.parse(this.#buildah('inspect', IMAGE)) as { OCIv1: { config: ImageConfig } };
    return OCIv1.config;
  }

  [Symbol.dispose](): void {
    this.#buildah('rm', '--all');
    this.#buildah('rmi', '--all', '--force');
    rmSync(this.#directory, { recursive: true });
  }

  #buildah(...args: readonly string[]): string {
    const storage = ['storage', 'run'].map((name) => join(this.#directory, name));
    for (const path of storage) mkdirSync(path, { recursive: true });
    // The plainest storage and isolation: they need neither a runtime nor a file system of layers.
    const env = { STORAGE_DRIVER: 'vfs', BUILDAH_ISOLATION: 'chroot', TMPDIR: this.#directory };
    return run('buildah', ['--root', storage[0]!, '--runroot', storage[1]!, ...args], { env }).trim();
  }
}
