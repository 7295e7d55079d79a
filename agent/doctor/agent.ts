/** The agent that runs here, if one does, what one before it has left at work, and whether it follows the config that doctor was given. */
import type { Identity } from '../lock.ts';
import { type Finding, fail, ok, warn } from './finding.ts';

export interface AgentFacts {
  /** `silent`: it does not say what it runs. */
  readonly agent: Identity | 'silent' | undefined;
  /** Interfaces that a program of ours is attached to. */
  readonly attached: readonly string[];
  /** The config that doctor was given. */
  readonly config?: { readonly path: string; readonly digest: string };
}

export function agentFindings({ agent, attached, config }: AgentFacts): Finding[] {
  const what = 'agent';
  const none = 'none runs in this network namespace';
  if (agent === undefined && attached.length > 0) {
    const means = `${none}, and the program on ${attached.join(', ')} serves on without one, by its last tables, until its lease runs out`;
    return [warn(what, means, 'start the agent, or remove all at once with `udp-fanout detach`')];
  }
  if (agent === undefined) return [ok(what, `${none}, so one can start`)];
  const second = 'a second one would be turned away with exit code 1';
  if (agent === 'silent') {
    const means = 'one runs in this network namespace, and does not say by which config';
    return [warn(what, means, 'see its log; a version before this one does not answer')];
  }
  const who = `one runs in this network namespace (process ${agent.pid}, version ${agent.version}); ${second}`;
  return [ok(what, who), follows(agent, config)];
}

/** What has an agent follow a file that it does not follow. */
const RESTART = 'restart the agent (kubectl -n udp-fanout rollout restart daemonset/udp-fanout)';

function follows({ config: path, digest, deviation }: Identity, config: AgentFacts['config']): Finding {
  const what = 'config';
  if (deviation !== undefined) {
    return fail(what, `the running agent's ${deviation}`, 'mend or undo the edit');
  }
  if (config === undefined || config.digest === digest) return ok(what, `the running agent follows "${path}"`);
  // A copy of what is to be, held against a node as it is, is no fault of the node.
  if (config.path !== path) {
    const means = `the running agent follows "${path}", which says something else than "${config.path}"`;
    return warn(what, means, 'if this one is meant to be followed, put it there');
  }
  return fail(what, `"${path}" is not what the running agent follows`, RESTART);
}
