import { utf8 } from '../../common/bytes.ts'
import { partitionForKey } from '../../common/murmur2.ts'

/** Where a lane of an edge goes, asked once per (edge, topic, lane) and then kept as a record. */

export interface LanePlacement {
  edgeId: string
  lane: number
  lanes: number
  partitionBy: 'edge' | 'key'
}

/**
 * The partition of a lane. By edge: all of it where its id hashes to (Kafka's partitioner, so that a client can find it). By
 * key: lane i is partition i where lanes and partitions agree in number; else the lanes lie one after another from the
 * edge's own partition, so that edges with few lanes don't crowd the first ones.
 */
export function placeLane(placement: LanePlacement, partitions: number): number {
  const { edgeId, lane, lanes, partitionBy } = placement
  const home = partitionForKey(utf8(edgeId), partitions)
  if (partitionBy === 'edge') return home
  return lanes === partitions ? lane : (home + lane) % partitions
}
