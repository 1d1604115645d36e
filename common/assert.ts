/** A broken invariant: the process must not go on with state it no longer understands. */
export class AssertionFailure extends Error {
  override readonly name = 'AssertionFailure'
}

/** Throws AssertionFailure unless `condition` holds. For invariants, never for input. */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new AssertionFailure(message)
}

/** Narrows away null and undefined where the code's own logic guarantees a value. */
export function must<T>(value: T | null | undefined, message: string): T {
  if (value === null || value === undefined) throw new AssertionFailure(message)
  return value
}

/** Marks a switch as exhaustive: reaching it is a bug. */
export function unreachable(value: never): never {
  throw new AssertionFailure(`unreachable: ${String(value)}`)
}

/** Offsets, sequences and times are safe non-negative integers; anything else is a bug. */
export function assertOffset(value: number, name: string): void {
  // The message is built only on failure: this stands on hot paths.
  if (Number.isSafeInteger(value) && value >= 0) return
  throw new AssertionFailure(`${name} must be a safe integer >= 0, got ${value}`)
}
