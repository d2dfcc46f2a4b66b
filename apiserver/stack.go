package apiserver

import "net/http"

// grow makes the stack of the request's goroutine as large as most requests need it, at once and while there is hardly
// anything on it. HTTP/2 starts a goroutine for each request with a small stack, and a write would have it copied, and
// every frame on it adjusted, four or five times on its way down.
func grow(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reserve(0)
		next.ServeHTTP(w, r)
	})
}

// usual makes stacks of 32 KiB, the next size. With it, writes of ConfigMaps hardly ever have theirs copied.
const usual = 16 << 10

// reserve needs a stack of that size for a moment. Its argument keeps the compiler from leaving the room out.
//
//go:noinline
func reserve(at int) byte {
	var room [usual]byte
	return room[at%usual]
}
