import type { Logger } from 'pino'
import type { Env } from '../../../../common/env.ts'
import type { MutualTls } from '../../../../common/tls.ts'
import type { PeerMemory } from '../../../../common/wire-peer.ts'
import type { PeerIdentity, PeerService } from '../types.ts'

/** What all links of a node share. */
export interface PeerContext {
  env: Pick<Env, 'clock' | 'rng' | 'net'>
  log: Logger
  /** As it is now: a node that gave up its seat has another directory. */
  self(): Omit<PeerIdentity, 'clusterId'>
  /** Where other nodes find this one, HOST:PORT; null: nowhere. */
  address: string | null
  /** What this node knows of another one's past, to be told to it. */
  memoryOf(nodeId: number): PeerMemory | null
  /** Another node told, before anything else, what it knows of this one's; null: nothing. */
  reminded(from: PeerIdentity, memory: PeerMemory | null): void
  /** As it is now: null before this node is part of a cluster. */
  clusterId(): string | null
  access: PeerAccess
  heartbeatMs: number
  /** Silence after which a link is given up. */
  deadMs: number
  service: PeerService
  counters: PeerCounters
}

/** How nodes prove to each other that they belong together; without either, links stay on loopback. */
export interface PeerAccess {
  secret: string | null
  tls: MutualTls | null
}

export interface PeerCounters {
  calls: number
  callsRefused: number
  callsServed: number
  linksLost: number
}
