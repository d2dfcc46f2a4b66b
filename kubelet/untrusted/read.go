package untrusted

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sync/singleflight"
)

// patience is how long a file system may take to answer. One that needs longer hangs.
const patience = 10 * time.Second

// ReadAll reads the file that open opens, which may have at most limit bytes. It returns when ctx ends.
// The key names the file: a read of it that hangs is not begun a second time.
func ReadAll(ctx context.Context, key string, limit int64, open func() (*os.File, error)) ([]byte, error) {
	return read(ctx, "all of "+key, open, func(f *os.File) ([]byte, error) {
		data, err := io.ReadAll(io.LimitReader(f, limit+1))
		if err == nil && int64(len(data)) > limit {
			return nil, fmt.Errorf("%s has more than %d bytes", f.Name(), limit)
		}
		return data, err
	})
}

// Tail reads at most the last limit bytes of the file that open opens. It returns when ctx ends. The key
// is ReadAll's.
func Tail(ctx context.Context, key string, limit int64, open func() (*os.File, error)) ([]byte, error) {
	return read(ctx, "end of "+key, open, func(f *os.File) ([]byte, error) {
		info, err := f.Stat()
		if err != nil {
			return nil, err
		}
		return io.ReadAll(io.NewSectionReader(f, max(0, info.Size()-limit), limit))
	})
}

func read(ctx context.Context, key string, open func() (*os.File, error), f func(*os.File) ([]byte, error)) ([]byte, error) {
	return Await(ctx, key, func() ([]byte, error) {
		file, err := open()
		if err != nil {
			return nil, err
		}
		defer file.Close()
		return f(file)
	})
}

// calls are the calls under way. One that hangs in the kernel cannot be ended. Whoever asks for the same
// waits for it instead of making another, so that no more of them gather than there are files.
var calls singleflight.Group

// Await calls f and returns its result, or an error when ctx ends or the file system hangs. Then f is left
// to itself. Callers with the same key at the same time share one call.
func Await[T any](ctx context.Context, key string, f func() (T, error)) (T, error) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	var none T
	select {
	case result := <-calls.DoChan(key, func() (any, error) { return f() }):
		value, _ := result.Val.(T)
		return value, result.Err
	case <-ctx.Done():
		return none, ctx.Err()
	case <-timer.C:
		return none, fmt.Errorf("the file system did not answer within %v", patience)
	}
}
