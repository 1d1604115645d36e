import type { Reading } from '../../../../common/metrics.ts'
import { counter, gauge } from '../../../../common/metrics.ts'
import type { Routes } from '../routes.ts'
import type { Tails } from '../tails.ts'
import type { Peers } from '../types.ts'

/** What `/metrics` shows of a node's links to others and of what goes over them. */
export function linkReadings(
  peers: Pick<Peers, 'stats'>,
  routes: Pick<Routes, 'stats'>,
  tails: Pick<Tails, 'stats'>,
): Reading[] {
  return [
    gauge('peers_known', 'Other nodes that this one dials.', () => peers.stats().known),
    gauge('peers_up', 'Other nodes that this one is linked to.', () => peers.stats().up),
    gauge('peer_links_served', 'Links that other nodes dialled.', () => peers.stats().served),
    counter('peer_links_lost', 'Times that a link to another node was lost.', () => peers.stats().linksLost),
    counter('peer_calls', 'Calls to other nodes.', () => peers.stats().calls),
    counter('peer_calls_served', 'Calls of other nodes.', () => peers.stats().callsServed),
    counter(
      'peer_calls_refused',
      'Calls to other nodes refused because too many waited for room on the link.',
      () => peers.stats().callsRefused,
    ),
    gauge(
      'peer_calls_in_flight',
      'Calls to other nodes without an answer.',
      () => peers.stats().callsInFlight,
    ),
    gauge('peer_calls_queued', 'Calls waiting for room on their link.', () => peers.stats().callsQueued),
    gauge(
      'peer_call_bytes_in_flight',
      'Bytes of calls to other nodes without an answer.',
      () => peers.stats().callBytesInFlight,
    ),
    gauge('leader_waits', 'Calls that wait for the leader of a partition.', () => routes.stats().waiting),
    gauge('leader_calls', 'Calls under way to leaders elsewhere.', () => routes.stats().underWay),
    counter(
      'leader_changes_under_way',
      'Calls under way whose leader changed: done or not done.',
      () => routes.stats().moved,
    ),
    gauge('remote_tails', 'Partitions led elsewhere whose end is waited at.', () => tails.stats().watched),
    gauge('remote_tail_bytes', 'Bytes kept of what came from there.', () => tails.stats().keptBytes),
  ]
}
