import { isLoopback, parseAddress } from './address.ts'
import type { Rng } from './env.ts'

/**
 * Where a hub is found: at the addresses that were configured, and at those that its nodes were told of. Whoever loses one goes on with
 * the next at once, and waits only when all have failed.
 */

/** Addresses that a hub told, kept. A cluster of more nodes is found by these. */
const MAX_LEARNED = 64

export interface HubList {
  /** What to dial now: `ws:` or `wss:`, without path. */
  current(): string
  /** `current` failed, or was lost: the next one is. True where it may be dialled at once, false where all have failed since one was reached. */
  failed(): boolean
  /** `current` serves. */
  reached(): void
  /** What the hub at `current` says of its nodes, HOST:PORT each; empty where it is alone. True where that is news. */
  learn(nodes: readonly string[]): boolean
  learned(): readonly string[]
  /** There is no other to go to. */
  isOne(): boolean
}

/** The list that starts with `configured`, of at least one; `learned` earlier, HOST:PORT each. */
export function createHubList(
  configured: readonly string[],
  rng: Pick<Rng, 'below'>,
  learned: readonly string[] = [],
): HubList {
  let told = learned.slice(0, MAX_LEARNED)
  let urls = urlsOf(configured, told)
  let at = 0
  let failures = 0

  return {
    current: () => urls[at] ?? '',
    failed: () => {
      failures++
      at = (at + 1) % urls.length
      if (failures < urls.length) return true
      failures = 0
      return false
    },
    reached: () => {
      failures = 0
    },
    learn: nodes => {
      const current = urls[at] ?? ''
      const usable = nodes.filter(node => isReachableFrom(current, node)).slice(0, MAX_LEARNED)
      if (usable.length === told.length && usable.every(node => told.includes(node))) return false
      // In an order of one's own, so that not all who lose a node come to the same next one.
      told = shuffled(usable, rng)
      urls = urlsOf(configured, told)
      at = Math.max(0, urls.indexOf(current))
      return true
    },
    learned: () => told,
    isOne: () => urls.length === 1,
  }
}

/** The configured ones first; learned ones by the scheme of the first, since nodes of a hub are alike. */
function urlsOf(configured: readonly string[], learned: readonly string[]): string[] {
  const scheme = configured[0]?.startsWith('wss:') === true ? 'wss' : 'ws'
  return [...new Set([...configured, ...learned.map(node => `${scheme}://${node}`)])]
}

/** A node that listens for its own machine alone is of use to whoever is on that machine. */
function isReachableFrom(url: string, node: string): boolean {
  const address = parseAddress(node)
  if (address === null) return false
  const host = URL.canParse(url) ? new URL(url).hostname.replace(/^\[(.*)\]$/, '$1') : ''
  return !isLoopback(address.host) || isLoopback(host)
}

function shuffled<T>(items: readonly T[], rng: Pick<Rng, 'below'>): T[] {
  const left = [...items]
  const order: T[] = []
  while (left.length > 0) order.push(...left.splice(rng.below(left.length), 1))
  return order
}
