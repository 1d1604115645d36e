import { TributaryError } from '../../common/errors.ts'

/** Operations that came before their partition's log was open, or before it began to lead. */

/** Per partition; beyond it they are refused as `throttled`. */
const MAX_EARLY_OPERATIONS = 10_000

export interface EarlyOperations<Leader> {
  /** Resolves as the operation does, once it is run. */
  add<T>(operation: (leader: Leader) => Promise<T>): Promise<T>
  isEmpty(): boolean
  /** Runs all, in the order in which they came, before anyone else can go first. */
  run(leader: Leader): void
  refuse(error: unknown): void
}

export function createEarlyOperations<Leader>(name: string): EarlyOperations<Leader> {
  let waiting: { run(leader: Leader): void; reject(error: unknown): void }[] = []

  function takeAll(): typeof waiting {
    const all = waiting
    waiting = []
    return all
  }

  return {
    add: operation => {
      if (waiting.length >= MAX_EARLY_OPERATIONS) {
        return Promise.reject(new TributaryError('throttled', `${name} is being opened; try again`))
      }
      return new Promise((resolve, reject) => {
        waiting.push({ run: leader => void operation(leader).then(resolve, reject), reject })
      })
    },
    isEmpty: () => waiting.length === 0,
    run: leader => {
      for (const { run } of takeAll()) run(leader)
    },
    refuse: error => {
      for (const { reject } of takeAll()) reject(error)
    },
  }
}
