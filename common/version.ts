/** The version in package.json (a test holds them equal), for `--version`, hello frames and the REST root. */
export const VERSION = '0.1.0'
