/** Metrics that are read together at the scrape, so that they show one moment. */
import { Counter, Gauge, type Registry } from 'prom-client';

export class MetricSet {
  readonly #registry: Registry;
  readonly #all: (Counter | Gauge)[] = [];

  constructor(registry: Registry) {
    this.#registry = registry;
  }

  counter<Label extends string = never>(name: string, help: string, ...labelNames: Label[]): Counter<Label> {
    const metric = new Counter({ name, help, labelNames, registers: [this.#registry] });
    this.#all.push(metric);
    return metric;
  }

  gauge<Label extends string = never>(name: string, help: string, ...labelNames: Label[]): Gauge<Label> {
    const metric = new Gauge({ name, help, labelNames, registers: [this.#registry] });
    this.#all.push(metric);
    return metric;
  }

  /** `fill` sets them at each scrape, from nothing: the first that the registry asks has all of them read. */
  onScrape(fill: () => void): void {
    const collect = () => {
      for (const metric of this.#all) metric.reset();
      fill();
    };
    Object.assign(this.#all[0]!, { collect });
  }
}
