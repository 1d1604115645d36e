/** Work on a replica that nothing else may go on beside: opening, cutting, starting over. */
export interface Turns {
  /** Runs it when what came before is over. Settles as the work does. */
  run(work: () => Promise<void>): Promise<void>
  /** The last of what is under way, which never rejects; null where nothing is. */
  busy(): Promise<void> | null
}

export function createTurns(): Turns {
  let busy: Promise<void> | null = null

  return {
    run: work => {
      const before = busy
      const run = async (): Promise<void> => {
        await before
        try {
          await work()
        } finally {
          if (busy === settled) busy = null
        }
      }
      const done = run()
      const settled = done.catch(() => {})
      busy = settled
      return done
    },
    busy: () => busy,
  }
}
