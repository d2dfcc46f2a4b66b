package authn

import (
	"encoding/json"
	"net/http"
	"slices"

	"github.com/go-jose/go-jose/v4"
)

// Paths of the documents with which others verify tokens (OpenID Connect
// Discovery 1.0, RFC 7517).
const (
	OpenIDConfigurationPath = "/.well-known/openid-configuration"
	KeysPath                = "/openid/v1/jwks"
)

// OpenIDConfiguration serves OpenIDConfigurationPath. address is the host and
// port under which relying parties reach this server.
func (t *Tokens) OpenIDConfiguration(address string) http.Handler {
	var methods []string
	for _, k := range t.keys {
		methods = append(methods, k.Algorithm)
	}
	slices.Sort(methods)
	return document("application/json", struct {
		Issuer        string   `json:"issuer"`
		KeysURL       string   `json:"jwks_uri"`
		ResponseTypes []string `json:"response_types_supported"`
		SubjectTypes  []string `json:"subject_types_supported"`
		Algorithms    []string `json:"id_token_signing_alg_values_supported"`
	}{t.issuers[0], "https://" + address + KeysPath, []string{"id_token"}, []string{"public"}, slices.Compact(methods)})
}

// Keys serves KeysPath.
func (t *Tokens) Keys() http.Handler {
	return document("application/jwk-set+json", jose.JSONWebKeySet{Keys: t.keys})
}

// document serves a value that never changes.
func document(contentType string, value any) http.Handler {
	body, err := json.Marshal(value)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", "public, max-age=3600")
		w.Write(body)
	})
}
