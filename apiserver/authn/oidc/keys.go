package oidc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/skiff-k8s/skiff/guard"
)

const (
	// fetchTime is how long an answer of a provider may take.
	fetchTime = 10 * time.Second
	// fetchPause is how long after one fetch of keys the next may begin: whoever sends tokens that name no key of ours
	// must not make this server ask without end.
	fetchPause = time.Second
)

// keySet are the public keys of an issuer. Tokens are verified by those that are known, without waiting for anybody; keys are
// asked for anew for a token that none of these has signed.
type keySet struct {
	fetch func(context.Context) ([]jose.JSONWebKey, error)

	mu       sync.Mutex
	keys     []jose.JSONWebKey
	fetching *fetch // nil: none
	next     time.Time
}

// fetch is one under way. done is closed when err is known.
type fetch struct {
	done chan struct{}
	keys []jose.JSONWebKey
	err  error
}

var errSignature = errors.New("failed to verify id token signature")

// verify returns what a token says, if a key of the issuer has signed it.
func (s *keySet) verify(ctx context.Context, token *jose.JSONWebSignature) ([]byte, error) {
	if payload, ok := signedBy(token, s.known()); ok {
		return payload, nil
	}
	keys, err := s.renew(ctx)
	if err != nil {
		return nil, err
	}
	if payload, ok := signedBy(token, keys); ok {
		return payload, nil
	}
	return nil, errSignature
}

func signedBy(token *jose.JSONWebSignature, keys []jose.JSONWebKey) ([]byte, bool) {
	id := token.Signatures[0].Header.KeyID
	for _, key := range keys {
		if id != "" && id != key.KeyID {
			continue
		}
		if payload, err := token.Verify(&key); err == nil {
			return payload, true
		}
	}
	return nil, false
}

func (s *keySet) known() []jose.JSONWebKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys
}

// renew asks for the keys anew, or waits for somebody who does. It does not ask soon after the last time.
func (s *keySet) renew(ctx context.Context) ([]jose.JSONWebKey, error) {
	f := s.begin(ctx)
	if f == nil {
		return nil, errSignature
	}
	select {
	case <-f.done:
		return f.keys, f.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *keySet) begin(ctx context.Context) *fetch {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fetching != nil || time.Now().Before(s.next) {
		return s.fetching
	}
	f := &fetch{done: make(chan struct{})}
	s.fetching = f
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTime) // others wait for it too
	guard.Go("keys of a token issuer", func() {
		defer cancel()
		err := guard.Call("keys of a token issuer", func() (err error) {
			f.keys, err = s.fetch(ctx)
			return err
		})
		s.end(f, err)
	})
	return f
}

func (s *keySet) end(f *fetch, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.keys = f.keys
	} else {
		f.err = fmt.Errorf("fetching keys %w", err)
	}
	s.fetching, s.next = nil, time.Now().Add(fetchPause)
	close(f.done)
}

// parseKeys reads a JSON Web Key Set. Keys of kinds that are not known are left out (RFC 7517, section 5).
func parseKeys(data []byte) ([]jose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, err
	}
	var keys []jose.JSONWebKey
	for _, raw := range set.Keys {
		var key jose.JSONWebKey
		switch err := key.UnmarshalJSON(raw); {
		case errors.Is(err, jose.ErrUnsupportedKeyType):
		case err != nil:
			return nil, err
		case key.IsPublic():
			keys = append(keys, key)
		}
	}
	return keys, nil
}
