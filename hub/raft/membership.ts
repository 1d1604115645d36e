import { assert, must } from '../../common/assert.ts'
import type { Config, ConfigChange, Entry, MemberId } from './types.ts'
import { nodeIdOf } from './types.ts'

/**
 * Members. A configuration counts from the moment its entry is in the log, committed or not (thesis 4.1), and stops
 * counting when that entry is taken back. Two that follow one another differ by one voter at most, so that any majority
 * of one meets any majority of the other.
 */

/** The configurations in a log, oldest first: the first is as of the log's start, the last one counts. */
export class Configs {
  #known: { readonly index: number; readonly config: Config }[]

  /** `config` holds as of the entry at `index`. */
  constructor(index: number, config: Config) {
    this.#known = [{ index, config }]
  }

  current(): Config {
    return must(this.#known.at(-1), 'there is no configuration').config
  }

  /** Index of the entry that made the current one. */
  currentIndex(): number {
    return must(this.#known.at(-1), 'there is no configuration').index
  }

  /** As of the entry at `index`. */
  at(index: number): Config {
    const found = this.#known.findLast(known => known.index <= index)
    return must(found, `the configuration as of entry ${index} is forgotten`).config
  }

  appended(entries: readonly Entry[]): void {
    for (const { index, payload } of entries) {
      if (payload.t === 'config') this.#known.push({ index, config: payload.config })
    }
  }

  truncatedFrom(index: number): void {
    this.#known = this.#known.filter(known => known.index < index)
    assert(this.#known.length > 0, `the configuration behind entry ${index} is lost`)
  }

  /** Nothing before the entry at `index` is asked about any more. */
  forgetBefore(index: number): void {
    const first = this.#known.findLastIndex(known => known.index <= index)
    if (first > 0) this.#known = this.#known.slice(first)
  }
}

/** All members. */
export function membersOf({ voters, learners }: Config): MemberId[] {
  return [...voters, ...learners]
}

/** The members after a change; null where it makes no sense. A node holds one voter's seat at most, and one voter stays. */
export function changedConfig(config: Config, { t, member }: ConfigChange): Config | null {
  const { voters, learners } = config
  const votes = voters.includes(member)
  const learns = learners.includes(member)
  const without = {
    voters: voters.filter(voter => voter !== member),
    learners: learners.filter(learner => learner !== member),
  }
  if (votes && voters.length === 1) return null
  switch (t) {
    case 'add-learner':
      return votes || learns ? null : { voters, learners: [...learners, member] }
    case 'promote': {
      const seated = voters.some(voter => nodeIdOf(voter) === nodeIdOf(member))
      return !learns || seated ? null : { ...without, voters: [...without.voters, member] }
    }
    case 'demote':
      return votes ? { ...without, learners: [...without.learners, member] } : null
    case 'remove':
      return votes || learns ? without : null
  }
}
