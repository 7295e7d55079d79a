/** The rules between the keys of one listener. */
import { formatAddress, isWildcard, type SocketAddress } from '../address.ts';
import { LIMITS } from '../model.ts';
import { slotsFor } from '../table.ts';
import type { DraftDownstream, DraftListener } from './draft.ts';
import { type Locate, type Path, type PathDiagnostic, pathText, quote } from './position.ts';
import { addressOf, repeats } from './repeats.ts';
import { DEFAULTS } from './schema.ts';

type Downstreams = readonly (DraftDownstream | undefined)[];

/** Everything between the keys of the listener at `path` that is wrong. */
export function listenerFindings(listener: DraftListener, path: Path, locate: Locate): readonly PathDiagnostic[] {
  const downstreams = listener.downstream ?? [];
  const place = [...path, 'downstream'];
  return [
    ...interfaceChoice(listener, path),
    ...sourceChoice(listener, path, locate),
    ...downstreamCount(listener, place),
    ...slotCount(downstreams, place),
    ...repeatedDownstreams(downstreams, place, locate),
    ...againstBind(downstreams, addressOf(listener.bind), place),
  ];
}

function interfaceChoice(listener: DraftListener, path: Path): readonly PathDiagnostic[] {
  const { interfaces } = listener;
  const here = pathText(path);
  if ('interface' in listener && 'interfaces' in listener) {
    const message = `${here}.interfaces: stands beside interface, want one of the two`;
    return [{ path: [...path, 'interfaces'], at: 'key', message }];
  }
  const repeated = repeats(interfaces ?? []).map(({ index, first, text }): PathDiagnostic => {
    const place = [...path, 'interfaces', index];
    const message = `${pathText(place)} ${quote(text)}: interfaces[${first}] is the same, want each interface once`;
    return { path: place, at: 'value', message };
  });
  if (repeated.length > 0 || !needsInterface(listener)) return repeated;
  const want = 'want the interface whose ingress is taken, such as eth0, or mode: userspace';
  if (interfaces?.length === 0) {
    return [{ path: [...path, 'interfaces'], at: 'value', message: `${here}.interfaces: the list is empty, ${want}` }];
  }
  const isMissing = !('interface' in listener) && !('interfaces' in listener);
  return isMissing ? [{ path, at: 'key', message: `${here}: interface is missing, ${want}` }] : [];
}

/** A mode that is written but wrong might have been meant as userspace. */
function needsInterface(listener: DraftListener): boolean {
  const mode = 'mode' in listener ? listener.mode : DEFAULTS.mode;
  return mode !== undefined && mode !== 'userspace';
}

function sourceChoice(listener: DraftListener, path: Path, locate: Locate): readonly PathDiagnostic[] {
  const written = (['kubernetes', 'downstream'] as const).filter((key) => key in listener);
  const here = pathText(path);
  if (written.length === 1) return [];
  if (written.length === 0) {
    const message = `${here}: kubernetes or downstream is missing, want exactly one of the two`;
    return [{ path, at: 'key', message }];
  }
  const lines = written.map((key) => ({ key, line: locate([...path, key], 'key').line }));
  const [first, second] = lines.sort((a, b) => a.line - b.line);
  const message = `${here}.${second?.key}: stands beside ${first?.key} in line ${first?.line}, want exactly one of the two`;
  return [{ path: [...path, second?.key ?? ''], at: 'key', message }];
}

function downstreamCount(listener: DraftListener, path: Path): readonly PathDiagnostic[] {
  const count = listener.downstream?.length;
  if (count === undefined || (count > 0 && count <= LIMITS.downstreamsPerListener)) return [];
  const message = `${pathText(path)}: has ${count} downstreams, want 1 to ${LIMITS.downstreamsPerListener}`;
  return [{ path, at: 'value', message }];
}

function slotCount(downstreams: Downstreams, path: Path): readonly PathDiagnostic[] {
  const weights = downstreams.map((downstream) => {
    return downstream && 'weight' in downstream ? downstream.weight : DEFAULTS.weight;
  });
  const known = weights.filter((weight) => weight !== undefined);
  if (known.length === 0 || known.length < weights.length) return [];
  const { total: slots } = slotsFor(known);
  if (slots <= LIMITS.slotsPerTable) return [];
  const message = `${pathText(path)}: the weights make ${slots} slots, want at most ${LIMITS.slotsPerTable} (lower weights, or with a common divisor)`;
  return [{ path, at: 'value', message }];
}

function repeatedDownstreams(downstreams: Downstreams, path: Path, locate: Locate): readonly PathDiagnostic[] {
  const finding = (key: 'name' | 'address') => {
    return ({ index, first, text }: { index: number; first: number; text: string }): PathDiagnostic => {
      const place = [...path, index, key];
      const { line } = locate([...path, first, key], 'value');
      const message = `${pathText(place)} ${quote(text)}: downstream[${first}] in line ${line} has this ${key}, want another`;
      return { path: place, at: 'value', message };
    };
  };
  const addresses = downstreams.map((downstream) => addressOf(downstream?.address));
  return [
    ...repeats(downstreams.map((downstream) => downstream?.name)).map(finding('name')),
    ...repeats(addresses.map((address) => address && formatAddress(address))).map(finding('address')),
  ];
}

function againstBind(downstreams: Downstreams, bind: SocketAddress | undefined, path: Path): readonly PathDiagnostic[] {
  if (bind === undefined) return [];
  return downstreams.flatMap((downstream, index) => {
    const address = addressOf(downstream?.address);
    const reason = address && refuseForBind(address, bind);
    if (address === undefined || reason === undefined) return [];
    const place = [...path, index, 'address'];
    return [{ path: place, at: 'value', message: `${pathText(place)} "${formatAddress(address)}": ${reason}` }];
  });
}

function refuseForBind(address: SocketAddress, bind: SocketAddress): string | undefined {
  const text = formatAddress(bind);
  if (formatAddress(address) === text)
    return "is the listener's own bind, which makes a loop, want the address of a receiver";
  const takesBoth = bind.family === 6 && isWildcard(bind);
  if (takesBoth || address.family === bind.family) return undefined;
  return `is IPv${address.family}, but bind "${text}" takes IPv${bind.family} only, want an IPv${bind.family} address or bind "[::]:${bind.port}"`;
}
