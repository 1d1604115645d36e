import type { LaneTip } from '../../common/wire.ts'
import type { ClusterEngine } from '../../hub/engines/cluster/engine.ts'
import type { LaneKey } from '../../hub/ports.ts'

/** Watches the tips of a hub's lanes, so that those rebuilt by a restart can be held against those before. */

/** Lanes a topic may have. */
const MAX_LANES = 3

/** A lane's tip at the hub, the runs before it since the hub started, and how far it was known to be committed. */
interface KnownTip {
  tip: LaneTip
  runs: number[]
  committed: { run: number; next: number }
}

export class TipWatch {
  readonly #edgeIds: readonly string[]
  #tips = new Map<string, KnownTip>()

  constructor(edgeIds: readonly string[]) {
    this.#edgeIds = edgeIds
  }

  /** What was known holds no more. */
  clear(): void {
    this.#tips.clear()
  }

  *#laneKeys(engine: ClusterEngine): Iterable<LaneKey> {
    for (const { name, topicId, partitions } of engine.ports.topics.list()) {
      if (name === '_gaps') continue
      for (let partition = 0; partition < partitions; partition++) {
        for (const edgeId of this.#edgeIds) {
          for (let lane = 0; lane < MAX_LANES; lane++) yield { edgeId, topicId, partition, lane }
        }
      }
    }
  }

  poll(engine: ClusterEngine): void {
    for (const key of this.#laneKeys(engine)) {
      const tip = engine.ports.logs.tip(key)
      if (tip === null) continue
      const name = JSON.stringify(key)
      const known = this.#tips.get(name)
      if (
        known !== undefined &&
        known.tip.run === tip.run &&
        known.tip.committed === tip.committed &&
        known.tip.next === tip.next
      )
        continue
      const committed =
        tip.committed > 0 || known === undefined ? { run: tip.run, next: tip.committed } : known.committed
      const runs = known?.tip.run === tip.run ? known.runs : [...(known?.runs ?? []), tip.run]
      this.#tips.set(name, { tip, runs, committed })
    }
  }

  /** Tips rebuilt from the log are the ones of before, as far as they were committed. */
  check(engine: ClusterEngine): void {
    for (const key of this.#laneKeys(engine)) {
      const name = JSON.stringify(key)
      const known = this.#tips.get(name)
      const tip = engine.ports.logs.tip(key)
      if (known === undefined || known.committed.next === 0) continue
      const { runs, committed } = known
      const [at, least] = [runs.indexOf(tip?.run ?? 0), runs.indexOf(committed.run)]
      const isLost = tip === null || at < least || (at === least && tip.next < committed.next)
      const isAhead = tip?.run === known.tip.run && tip.next > known.tip.next
      if (isLost || isAhead) {
        throw new Error(
          `the tip of ${name} was ${JSON.stringify(known)} and is ${JSON.stringify(tip)} after a restart`,
        )
      }
    }
    this.#tips.clear()
    this.poll(engine)
  }
}
