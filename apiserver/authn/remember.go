package authn

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"time"

	"golang.org/x/sync/singleflight"
	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/apiserver/pkg/authentication/authenticator"

	"github.com/skiff-k8s/skiff/guard"
)

const (
	// mostRemembered is how many tokens one Remembered remembers, the last used ones.
	mostRemembered = 32 << 10
	// askTime is how long it may take to ask about a token. Several requests may wait for one answer.
	askTime = 30 * time.Second
)

// Remembered asks about a token once in a while. It holds no tokens, but what cannot be told from anything else without a key
// that is in memory alone. Errors are not remembered.
type Remembered struct {
	next             authenticator.Token
	accepted, others time.Duration
	key              []byte
	known            *cache.LRUExpireCache
	asking           singleflight.Group
}

var _ authenticator.Token = (*Remembered)(nil)

// Remember makes a Remembered of next. accepted is how long it remembers tokens that are good, others, those that are not;
// 0 means not at all.
func Remember(next authenticator.Token, accepted, others time.Duration) *Remembered {
	r := &Remembered{next: next, accepted: accepted, others: others, key: make([]byte, sha256.Size), known: cache.NewLRUExpireCache(mostRemembered)}
	rand.Read(r.key) // it never fails
	return r
}

// judged is what was said of a token. It is not changed.
type judged struct {
	answer *authenticator.Response
	ok     bool
}

// AuthenticateToken implements authenticator.Token. The answer must not be changed.
func (r *Remembered) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	audiences, asked := authenticator.AudiencesFrom(ctx)
	key := r.digest(token, audiences)
	if j, ok := r.known.Get(key); ok {
		return j.(judged).answer, j.(judged).ok, nil
	}
	answers := r.asking.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.Background(), askTime) // it is not for one request alone
		defer cancel()
		if asked {
			ctx = authenticator.WithAudiences(ctx, audiences)
		}
		var j judged
		err := guard.Call("authentication by token", func() (err error) {
			j, err = r.ask(ctx, key, token)
			return err
		})
		return j, err
	})
	select {
	case a := <-answers:
		if a.Err != nil {
			return nil, false, a.Err
		}
		return a.Val.(judged).answer, a.Val.(judged).ok, nil
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
}

func (r *Remembered) ask(ctx context.Context, key, token string) (judged, error) {
	answer, ok, err := r.next.AuthenticateToken(ctx, token)
	if err != nil {
		return judged{}, err
	}
	j, lasts := judged{answer, ok}, r.others
	if ok {
		lasts = r.accepted
	}
	if lasts > 0 {
		r.known.Add(key, j, lasts)
	}
	return j, nil
}

// digest tells a token that is for audiences from all others.
func (r *Remembered) digest(token string, audiences []string) string {
	h := hmac.New(sha256.New, r.key)
	for _, text := range append([]string{token}, audiences...) {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(text)))) // where one ends and the next begins
		h.Write([]byte(text))
	}
	return string(h.Sum(nil))
}
