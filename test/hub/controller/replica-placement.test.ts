import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { PlacementNode } from '../../../hub/controller/replica-placement.ts'
import { placeNew, spreadAnew } from '../../../hub/controller/replica-placement.ts'

function node(nodeId: number, rack: string | null = null, more: Partial<PlacementNode> = {}): PlacementNode {
  return { nodeId, rack, open: true, replicas: 0, preferred: 0, ...more }
}

/** Nodes of racks of such sizes; nodes of one rack don't come one after another. */
function racked(sizes: readonly number[]): PlacementNode[] {
  const nodes: PlacementNode[] = []
  for (let place = 0; place < Math.max(...sizes); place++) {
    sizes.forEach((size, rack) => {
      if (place < size) nodes.push(node(nodes.length + 1, `r${rack}`))
    })
  }
  return nodes
}

function counted(nodes: readonly PlacementNode[], lists: readonly (readonly number[])[]): number[] {
  return nodes.map(({ nodeId }) => lists.filter(list => list.includes(nodeId)).length)
}

function led(nodes: readonly PlacementNode[], lists: readonly (readonly number[])[]): number[] {
  return nodes.map(({ nodeId }) => lists.filter(list => list[0] === nodeId).length)
}

function gap(counts: readonly number[]): number {
  return Math.max(...counts) - Math.min(...counts)
}

function racksOf(nodes: readonly PlacementNode[], list: readonly number[]): number {
  return new Set(list.map(nodeId => nodes.find(other => other.nodeId === nodeId)?.rack)).size
}

/** What every list must be: distinct nodes, as many as there can be, over as many racks as there can be. */
function checkLists(nodes: readonly PlacementNode[], lists: readonly number[][], replication: number): void {
  const open = nodes.filter(candidate => candidate.open)
  const racks = new Set(open.map(({ rack }) => rack)).size
  for (const list of lists) {
    expect(new Set(list).size).toBe(list.length)
    expect(list).toHaveLength(Math.min(replication, open.length))
    expect(racksOf(nodes, list)).toBe(Math.min(replication, racks))
  }
}

const sizes = fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 1, maxLength: 5 })
const equalSizes = fc
  .tuple(fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 4 }))
  .map(([racks, size]) => Array.from({ length: racks }, () => size))
const replication = fc.integer({ min: 1, max: 5 })
const partitions = fc.integer({ min: 1, max: 60 })

describe('new partitions', () => {
  it('lie on distinct nodes and over all racks that there are', () => {
    fc.assert(
      fc.property(sizes, replication, partitions, (racks, copies, count) => {
        const nodes = racked(racks)
        checkLists(nodes, placeNew(nodes, [], count, copies), copies)
      }),
    )
  })

  it('lie and are led evenly within 1 where racks are equal', () => {
    fc.assert(
      fc.property(equalSizes, replication, partitions, (racks, copies, count) => {
        const nodes = racked(racks)
        const lists = placeNew(nodes, [], count, copies)
        expect(gap(counted(nodes, lists))).toBeLessThanOrEqual(1)
        expect(gap(led(nodes, lists))).toBeLessThanOrEqual(1)
      }),
    )
  })

  it('lie evenly within each rack, whatever the racks', () => {
    fc.assert(
      fc.property(sizes, replication, partitions, (racks, copies, count) => {
        const nodes = racked(racks)
        const lists = placeNew(nodes, [], count, copies)
        for (const rack of new Set(nodes.map(candidate => candidate.rack))) {
          const inRack = nodes.filter(candidate => candidate.rack === rack)
          expect(gap(counted(inRack, lists))).toBeLessThanOrEqual(1)
        }
        expect(gap(led(nodes, lists))).toBeLessThanOrEqual(copies === 1 ? count : 2)
      }),
    )
  })

  it('make even what was not, and go to the least loaded nodes where the topic leaves a choice', () => {
    const nodes = [node(1), node(2), node(3)]
    const there = [
      [1, 2],
      [1, 2],
    ]
    expect(counted(nodes, [...there, ...placeNew(nodes, there, 2, 1)])).toEqual([2, 2, 2])
    const loaded = [
      node(1, null, { replicas: 9 }),
      node(2, null, { replicas: 3 }),
      node(3, null, { replicas: 5 }),
    ]
    expect(placeNew(loaded, [], 1, 1)).toEqual([[2]])
    const leading = [node(1, null, { preferred: 9 }), node(2, null, { preferred: 3 })]
    expect(placeNew(leading, [], 1, 2)).toEqual([[2, 1]])
  })

  it('leave closed nodes alone', () => {
    const nodes = [node(1), node(2, null, { open: false }), node(3)]
    expect(placeNew(nodes, [], 2, 3)).toEqual([
      [1, 3],
      [3, 1],
    ])
    expect(placeNew([], [], 2, 3)).toEqual([[], []])
  })
})

describe('partitions spread anew', () => {
  const lists = (nodes: number) =>
    fc.array(fc.uniqueArray(fc.integer({ min: 1, max: nodes }), { minLength: 1, maxLength: 4 }), {
      minLength: 1,
      maxLength: 40,
    })

  it('are as new ones would be, wherever they were', () => {
    const arbitrary = sizes.chain(racks =>
      fc.tuple(fc.constant(racks), lists(racks.length * 4 + 2), replication),
    )
    fc.assert(
      fc.property(arbitrary, ([racks, current, copies]) => {
        const nodes = racked(racks)
        const spread = spreadAnew(nodes, current, copies)
        checkLists(nodes, spread, copies)
        const leaders = new Map(led(nodes, spread).map((count, index) => [nodes[index]?.nodeId, count]))
        for (const list of spread) {
          const counts = list.map(nodeId => leaders.get(nodeId) ?? 0)
          expect((counts[0] ?? 0) - Math.min(...counts)).toBeLessThanOrEqual(1)
        }
        if (racks.length > 1) return
        expect(gap(counted(nodes, spread))).toBeLessThanOrEqual(1)
      }),
    )
  })

  it('move no more than a new node needs', () => {
    const three = [node(1), node(2), node(3)]
    const current = placeNew(three, [], 40, 3)
    const spread = spreadAnew([...three, node(4)], current, 3)
    const moved = spread.flatMap((list, index) => list.filter(nodeId => !current[index]?.includes(nodeId)))
    expect(moved).toEqual(Array.from({ length: 30 }, () => 4))
  })

  it('stay where they are where that is even', () => {
    fc.assert(
      fc.property(equalSizes, replication, partitions, (racks, copies, count) => {
        const nodes = racked(racks)
        const current = placeNew(nodes, [], count, copies)
        const spread = spreadAnew(nodes, current, copies)
        expect(spread.map(list => [...list].sort())).toEqual(current.map(list => [...list].sort()))
      }),
    )
  })

  it('keep what lies on nodes that take nothing new, and leave those that are not there', () => {
    const nodes = [node(1), node(2, null, { open: false }), node(3)]
    expect(spreadAnew(nodes, [[2, 9]], 2)).toEqual([[2, 1]])
  })
})
