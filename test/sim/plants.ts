/**
 * Bugs to be planted in the production code: a checker that never fires is worth nothing. Each replaces a text that must be there, exactly
 * once, in a copy of the tree.
 */

export interface Plant {
  name: string
  file: string
  find: string
  replace: string
  /** Within so many seeds it must be caught. */
  seeds: number
}

export const PLANTS: readonly Plant[] = []
