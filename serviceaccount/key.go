// Package serviceaccount holds what those who make tokens of service accounts have in common with those who check
// them: keys, and the claims and labels of tokens that live in Secrets.
package serviceaccount

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/go-jose/go-jose/v4"
)

// ParseKey reads a private key in PEM that can sign tokens: PKCS #8, PKCS #1 or SEC 1.
func ParseKey(data []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("no key in PEM")
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	if key, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	switch key := key.(type) {
	case *rsa.PrivateKey:
		return key, nil
	case *ecdsa.PrivateKey:
		return key, nil
	}
	return nil, fmt.Errorf("%T cannot sign tokens", key)
}

// WebKey describes a public key as RFC 7517 does. Its id is a hash, so that the key cannot be told from it.
func WebKey(key crypto.PublicKey) (jose.JSONWebKey, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return jose.JSONWebKey{}, fmt.Errorf("encode service account public key: %w", err)
	}
	id := sha256.Sum256(der)
	jwk := jose.JSONWebKey{Key: key, KeyID: base64.RawURLEncoding.EncodeToString(id[:]), Use: "sig"}
	switch k := key.(type) {
	case *rsa.PublicKey:
		jwk.Algorithm = string(jose.RS256)
	case *ecdsa.PublicKey:
		algorithm, ok := map[int]jose.SignatureAlgorithm{256: jose.ES256, 384: jose.ES384, 521: jose.ES512}[k.Curve.Params().BitSize]
		if !ok {
			return jose.JSONWebKey{}, fmt.Errorf("service account key: curve %s is not supported", k.Curve.Params().Name)
		}
		jwk.Algorithm = string(algorithm)
	default:
		return jose.JSONWebKey{}, fmt.Errorf("service account key: type %T is not supported", key)
	}
	return jwk, nil
}

// NewSigner makes what signs tokens with a key, and names the key in them.
func NewSigner(key crypto.Signer) (jose.Signer, error) {
	jwk, err := WebKey(key.Public())
	if err != nil {
		return nil, err
	}
	signer, err := jose.NewSigner(jose.SigningKey{
		Algorithm: jose.SignatureAlgorithm(jwk.Algorithm),
		Key:       jose.JSONWebKey{Key: key, KeyID: jwk.KeyID, Algorithm: jwk.Algorithm, Use: "sig"},
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("prepare the service account signing key: %w", err)
	}
	return signer, nil
}
