package encryption

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/nacl/secretbox"
)

// errShort has the words of Kubernetes, as all errors of values here have.
var errShort = errors.New("the stored data was shorter than the required size")

func (k Key) bytes() ([]byte, error) {
	secret, err := base64.StdEncoding.DecodeString(k.Secret)
	if err != nil {
		return nil, fmt.Errorf("could not obtain secret for named key %s: %w", k.Name, err)
	}
	return secret, nil
}

// gcm is AES-GCM with random nonces, 12 bytes before the value. The place of a
// value is authenticated.
type gcm struct{ aead cipher.AEAD }

func newGCM(key []byte) (transformer, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return gcm{aead}, nil
}

func (g gcm) encrypt(_ context.Context, at place, out, value []byte) ([]byte, error) {
	out = slices.Grow(out, g.aead.NonceSize()+len(value)+g.aead.Overhead())
	out, nonce := random(out, g.aead.NonceSize())
	return g.aead.Seal(out, nonce, value, []byte(at.key)), nil
}

func (g gcm) decrypt(_ context.Context, at place, stored []byte) ([]byte, bool, error) {
	size := g.aead.NonceSize()
	if len(stored) < size {
		return nil, false, errShort
	}
	value, err := g.aead.Open(nil, stored[:size], stored[size:], []byte(at.key))
	return value, false, err
}

// random appends n random bytes to out and returns them too.
func random(out []byte, n int) (grown, added []byte) {
	grown = append(out, make([]byte, n)...)
	added = grown[len(out):]
	_, _ = rand.Read(added) // it never fails
	return grown, added
}

// cbc is AES-CBC with the padding of PKCS #7, its IV before the value. Nothing
// tells whether a value was changed or moved.
type cbc struct{ block cipher.Block }

func newCBC(key []byte) (transformer, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cbc{block}, nil
}

func (c cbc) encrypt(_ context.Context, _ place, out, value []byte) ([]byte, error) {
	padding := aes.BlockSize - len(value)%aes.BlockSize
	out = slices.Grow(out, aes.BlockSize+len(value)+padding)
	out, iv := random(out, aes.BlockSize)
	start := len(out)
	out = append(out, value...)
	out = append(out, bytes.Repeat([]byte{byte(padding)}, padding)...)
	cipher.NewCBCEncrypter(c.block, iv).CryptBlocks(out[start:], out[start:])
	return out, nil
}

func (c cbc) decrypt(_ context.Context, _ place, stored []byte) ([]byte, bool, error) {
	if len(stored) < aes.BlockSize {
		return nil, false, errShort
	}
	iv, blocks := stored[:aes.BlockSize], stored[aes.BlockSize:]
	if len(blocks)%aes.BlockSize != 0 {
		return nil, false, errors.New("the stored data is not a multiple of the block size")
	}
	if len(blocks) == 0 {
		return nil, false, errNoPadding
	}
	value := make([]byte, len(blocks))
	cipher.NewCBCDecrypter(c.block, iv).CryptBlocks(value, blocks)
	padding := int(value[len(value)-1])
	if padding == 0 || padding > len(value) {
		return nil, false, errNoPadding
	}
	value, pad := value[:len(value)-padding], value[len(value)-padding:]
	if bytes.Count(pad, pad[:1]) != padding {
		return nil, false, errors.New("invalid padding on input")
	}
	return value, false, nil
}

var errNoPadding = errors.New("invalid PKCS7 data (empty or not padded)")

// box is XSalsa20 and Poly1305, a nonce of 24 bytes before the value. A value is
// authenticated, its place is not.
type box struct{ key [32]byte }

const boxNonce = 24

func newSecretbox(key []byte) (transformer, error) {
	b := new(box)
	if len(key) != len(b.key) {
		return nil, fmt.Errorf("expected key size 32 for secretbox provider, got %v", len(key))
	}
	copy(b.key[:], key)
	return b, nil
}

func (b *box) encrypt(_ context.Context, _ place, out, value []byte) ([]byte, error) {
	out = slices.Grow(out, boxNonce+len(value)+secretbox.Overhead)
	out, nonce := random(out, boxNonce)
	return secretbox.Seal(out, value, (*[boxNonce]byte)(nonce), &b.key), nil
}

func (b *box) decrypt(_ context.Context, _ place, stored []byte) ([]byte, bool, error) {
	if len(stored) < boxNonce+secretbox.Overhead {
		return nil, false, errShort
	}
	value, ok := secretbox.Open(nil, stored[boxNonce:], (*[boxNonce]byte)(stored), &b.key)
	if !ok {
		return nil, false, errors.New("output array was not large enough for encryption")
	}
	return value, false, nil
}
