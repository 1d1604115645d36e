/**
 * Where replicas go: on distinct nodes, over as many racks as can be, as evenly as the racks allow within a topic and, where
 * that leaves a choice, over all topics; preferred leaders as evenly among those. All choices follow from the arguments.
 */

/** A node as placement sees it. */
export interface PlacementNode {
  readonly nodeId: number
  /** Nodes without one are together in a rack of their own. */
  readonly rack: string | null
  /** Takes new replicas; others keep what they have. */
  readonly open: boolean
  /** Replicas it has, of all topics. */
  readonly replicas: number
  /** Partitions, of all topics, that it is the preferred leader of. */
  readonly preferred: number
}

/** Chooses places for partitions of one topic, counting what it is told of. A list has the preferred leader first. */
export interface Placer {
  /** Counts a list, by 1 or -1. */
  count(replicas: readonly number[], by: 1 | -1): void
  /** Up to `count` open nodes beside the `kept` ones; fewer where there are no more. Counts nothing. */
  choose(kept: readonly number[], count: number): number[]
  /** The same nodes, first the one that is the preferred leader of the fewest partitions, the others in their order. */
  lead(replicas: readonly number[]): number[]
  /** A better list where a replica lies on a node with at least two more than another that could have it; null: there is none. */
  levelled(replicas: readonly number[]): number[] | null
}

interface Load {
  readonly nodeId: number
  readonly open: boolean
  readonly rack: Rack
  replicas: number
  preferred: number
  /** Of the topic. */
  topicReplicas: number
  topicPreferred: number
}

interface Rack {
  readonly name: string
  readonly open: Load[]
  replicas: number
  topicReplicas: number
}

/** `there`: lists of the topic's partitions that are in the nodes' numbers. */
export function createPlacer(nodes: readonly PlacementNode[], there: Iterable<readonly number[]>): Placer {
  const racks = new Map<string, Rack>()
  const loads = new Map<number, Load>()
  for (const { nodeId, rack: name, open, replicas, preferred } of nodes) {
    const rack = racks.get(name ?? '') ?? { name: name ?? '', open: [], replicas: 0, topicReplicas: 0 }
    racks.set(rack.name, rack)
    const load = { nodeId, open, rack, replicas, preferred, topicReplicas: 0, topicPreferred: 0 }
    loads.set(nodeId, load)
    rack.replicas += replicas
    if (open) rack.open.push(load)
  }
  const openRacks = [...racks.values()].filter(rack => rack.open.length > 0)
  const openNodes = openRacks.flatMap(rack => rack.open)
  for (const replicas of there) countOfTopic(replicas, 1)

  function countOfTopic(replicas: readonly number[], by: 1 | -1): void {
    for (const nodeId of replicas) {
      const load = loads.get(nodeId)
      if (load === undefined) continue
      load.topicReplicas += by
      load.rack.topicReplicas += by
      if (nodeId === replicas[0]) load.topicPreferred += by
    }
  }

  function count(replicas: readonly number[], by: 1 | -1): void {
    countOfTopic(replicas, by)
    for (const nodeId of replicas) {
      const load = loads.get(nodeId)
      if (load === undefined) continue
      load.replicas += by
      load.rack.replicas += by
      if (nodeId === replicas[0]) load.preferred += by
    }
  }

  /** How often each rack is among the nodes. */
  function usage(replicas: readonly number[]): Map<Rack, number> {
    const used = new Map<Rack, number>()
    for (const nodeId of replicas) {
      const rack = loads.get(nodeId)?.rack
      if (rack !== undefined) used.set(rack, (used.get(rack) ?? 0) + 1)
    }
    return used
  }

  function chooseOne(taken: readonly number[], used: ReadonlyMap<Rack, number>): Load | null {
    const free = ({ nodeId }: Load): boolean => !taken.includes(nodeId)
    const rack = least(
      openRacks.filter(({ open }) => open.some(free)),
      (a, b) => compareRacks(a, b, used),
    )
    return rack === null ? null : least(rack.open.filter(free), compareLoads)
  }

  function choose(kept: readonly number[], wanted: number): number[] {
    const taken = [...kept]
    const used = usage(kept)
    while (taken.length < kept.length + wanted) {
      const load = chooseOne(taken, used)
      if (load === null) break
      taken.push(load.nodeId)
      used.set(load.rack, (used.get(load.rack) ?? 0) + 1)
    }
    return taken.slice(kept.length)
  }

  function lead(replicas: readonly number[]): number[] {
    const known = replicas.flatMap(nodeId => loads.get(nodeId) ?? [])
    const first = least(known, compareLeaders)?.nodeId
    return first === undefined ? [...replicas] : [first, ...replicas.filter(nodeId => nodeId !== first)]
  }

  function levelled(replicas: readonly number[]): number[] | null {
    const used = usage(replicas)
    const fits = (from: Load, to: Load): boolean =>
      from.topicReplicas - to.topicReplicas >= 2 &&
      !replicas.includes(to.nodeId) &&
      (from.rack === to.rack || !used.has(to.rack) || (used.get(from.rack) ?? 0) > 1)
    for (const nodeId of replicas) {
      const from = loads.get(nodeId)
      if (from === undefined || !from.open) continue
      const to = least(
        openNodes.filter(candidate => fits(from, candidate)),
        compareLoads,
      )
      if (to !== null) return replicas.map(other => (other === nodeId ? to.nodeId : other))
    }
    return null
  }

  return { count, choose, lead, levelled }
}

function least<T>(items: readonly T[], compare: (a: T, b: T) => number): T | null {
  let found: T | null = null
  for (const item of items) if (found === null || compare(item, found) < 0) found = item
  return found
}

/** Racks that the partition uses least first, of those the ones with the fewest replicas for their nodes. */
function compareRacks(a: Rack, b: Rack, used: ReadonlyMap<Rack, number>): number {
  return (
    (used.get(a) ?? 0) - (used.get(b) ?? 0) ||
    a.topicReplicas * b.open.length - b.topicReplicas * a.open.length ||
    a.replicas * b.open.length - b.replicas * a.open.length ||
    (a.name < b.name ? -1 : 1)
  )
}

function compareLoads(a: Load, b: Load): number {
  return a.topicReplicas - b.topicReplicas || a.replicas - b.replicas || a.nodeId - b.nodeId
}

function compareLeaders(a: Load, b: Load): number {
  return a.topicPreferred - b.topicPreferred || a.preferred - b.preferred
}

/** Places for `count` new partitions, beside those that are there. Shorter lists where there are fewer open nodes. */
export function placeNew(
  nodes: readonly PlacementNode[],
  there: Iterable<readonly number[]>,
  count: number,
  replication: number,
): number[][] {
  const placer = createPlacer(nodes, there)
  const lists: number[][] = []
  for (let made = 0; made < count; made++) {
    const list = placer.lead(placer.choose([], replication))
    placer.count(list, 1)
    lists.push(list)
  }
  return lists
}

/**
 * Places for partitions that have some: `replication` for each, spread evenly with few moves. Each list of `current` has
 * those first that should rather stay; nodes that are not among `nodes` keep nothing.
 */
export function spreadAnew(
  nodes: readonly PlacementNode[],
  current: readonly (readonly number[])[],
  replication: number,
): number[][] {
  const placer = createPlacer(nodes, current)
  const stays = stayingIn(nodes, replication)
  const recount = (before: readonly number[], after: number[]): number[] => {
    placer.count(before, -1)
    placer.count(after, 1)
    return after
  }
  const lists = current.map(list => recount(list, stays(list)))
  lists.forEach((list, index) => {
    lists[index] = recount(list, [...list, ...placer.choose(list, replication - list.length)])
  })
  settle(lists, list => {
    const better = placer.levelled(list)
    return better === null ? list : recount(list, better)
  })
  settle(lists, list => {
    placer.count(list, -1)
    const led = placer.lead(list)
    placer.count(led, 1)
    return led[0] === list[0] ? list : led
  })
  return lists
}

/** Improves list after list until none can be. */
function settle(lists: number[][], improved: (list: number[]) => number[]): void {
  for (let changed = true; changed; ) {
    changed = false
    lists.forEach((list, index) => {
      const better = improved(list)
      if (better === list) return
      lists[index] = better
      changed = true
    })
  }
}

/** What of a list may stay: no more than wanted, and no two in a rack while another rack could have the second. */
function stayingIn(
  nodes: readonly PlacementNode[],
  replication: number,
): (list: readonly number[]) => number[] {
  const racks = new Map(nodes.map(({ nodeId, rack }) => [nodeId, rack ?? '']))
  const openRacks = new Set(nodes.filter(({ open }) => open).map(({ rack }) => rack ?? ''))
  return list => {
    const known = list.filter(nodeId => racks.has(nodeId))
    const own = new Set(known.map(nodeId => racks.get(nodeId)))
    const doubles = replication - Math.min(replication, new Set([...own, ...openRacks]).size)
    const seen = new Set<string | undefined>()
    let kept = 0
    let doubled = 0
    return known.filter(nodeId => {
      const rack = racks.get(nodeId)
      if (kept >= replication || (seen.has(rack) && doubled >= doubles)) return false
      if (seen.has(rack)) doubled++
      seen.add(rack)
      kept++
      return true
    })
  }
}
