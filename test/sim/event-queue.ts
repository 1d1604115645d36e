/** A binary heap of events by time, and by order of scheduling where times are equal. */

export interface Event {
  readonly atMs: number
  readonly order: number
  cancelled: boolean
  run(): void
}

/** Called-off events that may lie about before they are swept. */
const MAX_CANCELLED = 4_096

export class EventQueue {
  #heap: Event[] = []
  #cancelled = 0

  cancel(event: Event): void {
    if (event.cancelled) return
    event.cancelled = true
    this.#cancelled++
    if (this.#cancelled < MAX_CANCELLED || this.#cancelled * 2 < this.#heap.length) return
    const left = this.#heap.filter(({ cancelled }) => !cancelled)
    this.#heap = []
    this.#cancelled = 0
    for (const each of left) this.push(each)
  }

  push(event: Event): void {
    const heap = this.#heap
    let at = heap.length
    heap.push(event)
    while (at > 0) {
      const above = (at - 1) >> 1
      const parent = heap[above]
      if (parent === undefined || !isBefore(event, parent)) break
      heap[at] = parent
      at = above
    }
    heap[at] = event
  }

  /** The next event that was not cancelled. */
  pop(): Event | null {
    for (;;) {
      const event = this.#take()
      if (event === null || !event.cancelled) return event
    }
  }

  #take(): Event | null {
    const heap = this.#heap
    const first = heap[0]
    const last = heap.pop()
    if (first === undefined || last === undefined) return null
    if (heap.length > 0) this.#sink(last)
    return first
  }

  #sink(event: Event): void {
    const heap = this.#heap
    const { length } = heap
    let at = 0
    for (;;) {
      const left = heap[2 * at + 1]
      if (left === undefined) break
      const right = 2 * at + 2 < length ? heap[2 * at + 2] : undefined
      const useRight = right !== undefined && isBefore(right, left)
      const child = useRight ? right : left
      if (!isBefore(child, event)) break
      heap[at] = child
      at = 2 * at + (useRight ? 2 : 1)
    }
    heap[at] = event
  }
}

function isBefore(one: Event, other: Event): boolean {
  return one.atMs < other.atMs || (one.atMs === other.atMs && one.order < other.order)
}
