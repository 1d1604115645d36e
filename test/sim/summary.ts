import type { SeedResult } from './run.ts'
import { FAULTS } from './swarm.ts'

/** What a run of many seeds came to. */

/** A seed counts only if it ran so long and acked so much. */
export const LEAST_SIM_MS = 30_000
export const LEAST_ACKS = 1_000

export interface Summary {
  seeds: number
  /** Ran long enough and acked enough. */
  counted: number
  /** Well, but too short or with too little to count. */
  slight: number[]
  failed: number[]
  simulatedSeconds: number
  acks: number
  events: number
  counters: Record<string, number>
  /** What should have happened at least once, and did not. */
  missing: string[]
  seconds: number
  /** Of all seeds, over all processes. */
  cpuSeconds: number
}

/** Happens by itself, to be seen in a run of enough seeds. */
const OUTCOMES: readonly string[] = [
  'node gave up',
  'edge gave up',
  'edge rejected for space',
  'dead letters',
  'gap refused',
  'gap disk-full',
  'gap wiped',
  'gap fork',
  'run next',
  'run fork',
  'run wiped',
  'message drop',
  'message twice',
  'message late',
  'controllers elected',
  'leaders elected',
  'isr shrinks',
  'isr grows',
  'node fenced',
  'quorum changed',
  'replica diverged',
  'replica truncated',
  'replica began anew',
  'metadata snapshot installed',
  'append fenced',
  'fetch fenced',
  'edge alarm fenced',
  'edge alarm fork',
  'client acks=0',
  'client acks=1',
  'a minority stays away',
]

function counts({ simMs, acks }: SeedResult): boolean {
  return simMs >= LEAST_SIM_MS && acks >= LEAST_ACKS
}

export class Tally {
  readonly #results: SeedResult[] = []
  readonly #counters = new Map<string, number>()
  readonly #startMs = performance.now()

  add(result: SeedResult): void {
    this.#results.push({ ...result, counters: {} })
    for (const [name, count] of Object.entries(result.counters)) {
      this.#counters.set(name, (this.#counters.get(name) ?? 0) + count)
    }
  }

  summary(): Summary {
    const results = this.#results
    const total = (of: (result: SeedResult) => number): number =>
      results.reduce((sum, result) => sum + of(result), 0)
    const wanted = [...Object.keys(FAULTS), ...OUTCOMES]
    const counters = [...this.#counters].sort(([one], [other]) => (one < other ? -1 : 1))
    return {
      seeds: results.length,
      counted: results.filter(counts).length,
      slight: results.filter(result => result.failure === null && !counts(result)).map(({ seed }) => seed),
      failed: results.filter(({ failure }) => failure !== null).map(({ seed }) => seed),
      simulatedSeconds: Math.round(total(({ simMs }) => simMs) / 1_000),
      acks: total(({ acks }) => acks),
      events: total(({ events }) => events),
      counters: Object.fromEntries(counters),
      missing: wanted.filter(name => (this.#counters.get(name) ?? 0) === 0),
      cpuSeconds: Math.round(total(({ cpuMs }) => cpuMs) / 1_000),
      seconds: Math.round((performance.now() - this.#startMs) / 1_000),
    }
  }
}
