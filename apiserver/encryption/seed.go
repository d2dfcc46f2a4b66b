package encryption

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
)

// seed encrypts each value by a key of its own, which it derives from itself
// and from 32 random bytes that stand before the value. So it may write any
// number of values.
type seed struct{ secret []byte }

const (
	seedSize = 32 // at least
	infoSize = 32
)

func newSeed(secret []byte) (transformer, error) {
	if len(secret) < seedSize {
		return nil, fmt.Errorf("invalid seed length %d used for key generation", len(secret))
	}
	return seed{secret}, nil
}

func (s seed) encrypt(ctx context.Context, at place, out, value []byte) ([]byte, error) {
	out, info := random(slices.Grow(out, infoSize+len(value)+overhead), infoSize)
	with, err := s.derive(info)
	if err != nil {
		return nil, fmt.Errorf("failed to derive write key from KDF: %w", err)
	}
	return with.encrypt(ctx, at, out, value)
}

func (s seed) decrypt(ctx context.Context, at place, stored []byte) ([]byte, bool, error) {
	if len(stored) < infoSize {
		return nil, false, errShort
	}
	with, err := s.derive(stored[:infoSize])
	if err != nil {
		return nil, false, fmt.Errorf("failed to derive read key from KDF: %w", err)
	}
	return with.decrypt(ctx, at, stored[infoSize:])
}

func (s seed) derive(info []byte) (transformer, error) {
	key, err := hkdf.Expand(sha256.New, s.secret, string(info), sha256.Size)
	if err != nil {
		return nil, err
	}
	return newGCM(key)
}

// source is a secret as it is stored with each value that was encrypted by it:
// itself encrypted by a plugin.
type source struct {
	kind        sourceKind
	encrypted   []byte
	keyID       string // of the plugin's key
	annotations map[string][]byte
}

// sourceKind says how the secret of a source encrypts.
type sourceKind uint64

const (
	sourceKey  sourceKind = 0 // it is a key of AES-GCM
	sourceSeed sourceKind = 1 // it is a seed
)

// open is what decrypts by the secret of s.
func (s *source) open(secret []byte) (transformer, error) {
	if s.kind == sourceSeed {
		return newSeed(secret)
	}
	return newGCM(secret)
}

// Limits of what a plugin says, which is stored with each value.
const (
	maxKeyID       = 1 << 10
	maxEncrypted   = 1 << 10
	maxAnnotations = 32 << 10
)

func (s *source) validate() error {
	if s.kind != sourceKey && s.kind != sourceSeed {
		return fmt.Errorf("unknown encryptedDEKSourceType: %d", s.kind)
	}
	switch n := len(s.encrypted); {
	case n == 0:
		return errors.New("failed to validate encrypted DEK source: encrypted DEK source is empty")
	case n > maxEncrypted:
		return fmt.Errorf("failed to validate encrypted DEK source: encrypted DEK source is %d bytes, which exceeds the max size of %d", n, maxEncrypted)
	}
	if err := validateKeyID(s.keyID); err != nil {
		return fmt.Errorf("failed to validate key id: %w", err)
	}
	if err := validateAnnotations(s.annotations); err != nil {
		return fmt.Errorf("failed to validate annotations: %w", err)
	}
	return nil
}

func validateKeyID(id string) error {
	switch {
	case id == "":
		return errors.New("keyID is empty")
	case len(id) > maxKeyID:
		return fmt.Errorf("keyID is %d bytes, which exceeds the max size of %d", len(id), maxKeyID)
	}
	return nil
}
