import type { Logger } from 'pino'
import type { Env } from '../../../../common/env.ts'
import type { MutualTls } from '../../../../common/tls.ts'
import type { PeerIdentity, PeerService } from '../types.ts'

/** What all links of a node share. */
export interface PeerContext {
  env: Pick<Env, 'clock' | 'rng' | 'net'>
  log: Logger
  self: Omit<PeerIdentity, 'clusterId'>
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
