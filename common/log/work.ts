/** Runs `work` over the items, at most `limit` at once; rejects with the first failure once all under way have ended. */
export async function eachAtMost<T>(
  limit: number,
  items: readonly T[],
  work: (item: T) => Promise<unknown>,
): Promise<void> {
  const only = items[0]
  if (items.length === 1 && only !== undefined) {
    await work(only)
    return
  }
  let next = 0
  let failed = false
  let failure: unknown
  const worker = async (): Promise<void> => {
    while (next < items.length && !failed) {
      const item = items[next++]
      if (item === undefined) continue
      try {
        await work(item)
      } catch (error) {
        if (!failed) failure = error
        failed = true
      }
    }
  }
  await Promise.all(Array.from({ length: Math.min(limit, items.length) }, worker))
  if (failed) throw failure
}
