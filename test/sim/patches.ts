import { registerHooks } from 'node:module'

/** Changes of the production code that a simulating process makes as it loads it; what is on the disk stays as it is. */

export interface Patch {
  /** Relative to the tree. */
  file: string
  /** Must be there exactly once. */
  find: string | RegExp
  replace: string
}

const ROOT = new URL('../../', import.meta.url).href

/**
 * From now on modules are loaded with the patches in them; a text that is not there throws. Call the result when all is loaded: it
 * throws where a patch was never applied.
 */
export function patchModules(patches: readonly Patch[]): () => void {
  const pending = new Set(patches)
  registerHooks({
    load: (url, context, nextLoad) => {
      const loaded = nextLoad(url, context)
      const wanted = patches.filter(({ file }) => url === ROOT + file)
      if (wanted.length === 0) return loaded
      let source = textOf(loaded.source)
      for (const patch of wanted) {
        source = patched(source, patch)
        pending.delete(patch)
      }
      return { ...loaded, source }
    },
  })
  return () => {
    for (const { file } of pending) throw new Error(`${file} is to be patched and was never loaded`)
  }
}

function textOf(source: string | ArrayBuffer | NodeJS.TypedArray | undefined): string {
  if (source === undefined) throw new Error('a module without source cannot be patched')
  return typeof source === 'string' ? source : new TextDecoder().decode(source)
}

function patched(source: string, { file, find, replace }: Patch): string {
  const parts = source.split(find)
  if (parts.length !== 2) throw new Error(`${parts.length - 1} times, not once, in ${file}: ${find}`)
  return `${parts[0]}${replace}${parts[1]}`
}
