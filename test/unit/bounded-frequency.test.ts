/** When a loop makes its passes, on a clock that stands still. */
import { describe, expect, test } from 'vitest';
import { BoundedFrequencyRunner } from '../../agent/bounded-frequency.ts';
import { FakeTimer } from '../fake/timer.ts';

function rig() {
  const timer = new FakeTimer();
  const passes: number[] = [];
  const state: { result: boolean | Error; during: () => void } = { result: true, during: () => {} };
  const pass = () => {
    passes.push(timer.now);
    state.during();
    if (state.result instanceof Error) throw state.result;
    return state.result;
  };
  const frequency = { leastMs: 50, retryMs: { first: 1000, most: 30_000 }, resyncMs: 40_000 };
  const runner = new BoundedFrequencyRunner(pass, timer.set, frequency);
  return { timer, passes, state, runner };
}

describe('passes', () => {
  test('come at once in a quiet time, and then at most every 50 ms', () => {
    const { timer, passes, runner } = rig();
    for (let at = 0; at < 200; at += 10) {
      runner.run();
      timer.advance(10);
    }
    timer.advance(1000);
    runner.run();
    expect(passes).toEqual([0, 50, 100, 150, 200, 1200]);
  });

  test('that are asked for during a pass come after it', () => {
    const { timer, passes, state, runner } = rig();
    state.during = () => passes.length === 1 && runner.run();
    runner.run();
    expect(passes).toEqual([0]);
    timer.advance(1000);
    expect(passes).toEqual([0, 50]);
  });

  test('come without being asked for when the last one is long ago', () => {
    const { timer, passes, runner } = rig();
    runner.run();
    timer.advance(30_000);
    runner.run();
    timer.advance(80_000);
    expect(passes).toEqual([0, 30_000, 70_000, 110_000]);
  });

  test('end with close, also from within one', () => {
    const { timer, passes, state, runner } = rig();
    state.result = false;
    state.during = () => runner.close();
    runner.run();
    runner.run();
    timer.advance(100_000);
    expect(passes).toEqual([0]);
  });
});

describe('a retry', () => {
  test('comes after a pause that grows with each retry, and not with each pass', () => {
    const { timer, passes, state, runner } = rig();
    state.result = false;
    for (let event = 0; event < 7; event++) {
      runner.run();
      timer.advance(50);
    }
    expect(passes).toEqual([0, 50, 100, 150, 200, 250, 300]);
    timer.advance(100_000 - 350);
    expect(passes.slice(7)).toEqual([1300, 3300, 7300, 15_300, 31_300, 61_300, 91_300]);
  });

  test('begins with the first pause again once a pass has done all', () => {
    const { timer, passes, state, runner } = rig();
    state.result = false;
    runner.run();
    timer.advance(4000);
    state.result = true;
    timer.advance(6000);
    state.result = false;
    runner.run();
    timer.advance(1500);
    expect(passes).toEqual([0, 1000, 3000, 7000, 10_000, 11_000]);
  });

  test('comes after a pass that threw, too, and whoever asked for that one hears of it', () => {
    const { timer, passes, state, runner } = rig();
    state.result = new Error('no');
    expect(() => runner.run()).toThrow('no');
    state.result = true;
    timer.advance(1000);
    expect(passes).toEqual([0, 1000]);
  });
});
