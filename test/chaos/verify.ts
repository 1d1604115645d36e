/** Judges one publisher's messages against the hub's log. Pure. */

/** What a publisher knows of its own messages, numbered from 0 in publishing order. */
export interface Published {
  client: string
  qos: 1 | 2
  /** All payloads are the same, so copies can only be counted. */
  constant: boolean
  count: number
  unacked: ReadonlySet<number>
  /** How often a message was without an ack when its connection ended: as many extra copies QoS 1 allows. */
  cutUnacked: ReadonlyMap<number, number>
}

/** Problems found, in words; none where all is well. `stored`: message numbers in log order (0 for each of a constant publisher). */
export function judge(published: Published, stored: readonly number[]): string[] {
  return published.constant ? judgeCount(published, stored.length) : judgeNumbered(published, stored)
}

function judgeCount(published: Published, stored: number): string[] {
  const acked = published.count - published.unacked.size
  const extra = published.qos === 2 ? 0 : [...published.cutUnacked.values()].reduce((a, b) => a + b, 0)
  if (stored < acked) return [`${published.client}: ${acked - stored} of ${acked} acked messages are missing`]
  if (stored > published.count + extra)
    return [
      `${published.client}: ${stored} stored of ${published.count} published, ${extra} extra copies allowed`,
    ]
  return []
}

function judgeNumbered(published: Published, stored: readonly number[]): string[] {
  const problems: string[] = []
  const copies = new Map<number, number>()
  let highest = -1
  for (const n of stored) {
    const before = copies.get(n) ?? 0
    copies.set(n, before + 1)
    if (before > 0) continue
    if (n < highest) problems.push(`${published.client}: message ${n} stands behind ${highest}`)
    else highest = n
  }
  for (let n = 0; n < published.count; n++) {
    const found = copies.get(n) ?? 0
    if (found === 0 && !published.unacked.has(n))
      problems.push(`${published.client}: acked message ${n} is missing`)
    const allowed = 1 + (published.qos === 2 ? 0 : (published.cutUnacked.get(n) ?? 0))
    if (found > allowed)
      problems.push(
        `${published.client}: ${found} copies of message ${n}, ${allowed} allowed (QoS ${published.qos})`,
      )
  }
  for (const n of copies.keys()) {
    if (n >= published.count || n < 0) problems.push(`${published.client}: message ${n} was never published`)
  }
  return problems
}
