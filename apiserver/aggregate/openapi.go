package aggregate

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/skiff-k8s/skiff/apiserver/openapi"
)

// openAPITime is how long an extension server may take to describe itself.
const openAPITime = 30 * time.Second

// reader is who asks for descriptions: somebody without rights of his own.
var reader = &user.DefaultInfo{Name: "system:aggregator"}

// openAPI is how the server describes the group version now. What it does not
// tell stays as it was before.
func (e *extension) openAPI(ctx context.Context, before *openapi.Extension) *openapi.Extension {
	ctx, cancel := context.WithTimeout(ctx, openAPITime)
	defer cancel()
	next := &openapi.Extension{Group: e.object.Spec.Group, Version: e.object.Spec.Version, Serve: e, Index: before.Index, Swagger: before.Swagger}
	if index, err := e.openAPIIndex(ctx); err == nil {
		next.Index = index
	} else {
		e.config.Log.DebugContext(ctx, "an extension server is not described", "name", e.name, "error", err)
	}
	body, answer, err := e.read(ctx, openapi.PathV2, "application/json", reader)
	switch {
	case err != nil:
		e.config.Log.DebugContext(ctx, "an extension server is not described", "name", e.name, "error", err)
	case answer.StatusCode == http.StatusOK:
		next.Swagger = body
	case answer.StatusCode == http.StatusNotFound:
		next.Swagger = nil
	}
	if maps.Equal(next.Index, before.Index) && bytes.Equal(next.Swagger, before.Swagger) {
		return before
	}
	return next
}

// openAPIIndex says where the documents of version 3 are; nil if the server
// knows none.
func (e *extension) openAPIIndex(ctx context.Context) (map[string]string, error) {
	body, answer, err := e.read(ctx, openapi.PathV3, "application/json", reader)
	switch {
	case err != nil:
		return nil, err
	case answer.StatusCode == http.StatusNotFound:
		return nil, nil
	case answer.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("it answers %d to a request for %s", answer.StatusCode, openapi.PathV3)
	}
	var index struct {
		Paths map[string]struct {
			ServerRelativeURL string `json:"serverRelativeURL"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(body, &index); err != nil {
		return nil, fmt.Errorf("%s: %w", openapi.PathV3, err)
	}
	own := make(map[string]string)
	for _, path := range []string{"apis/" + e.object.Spec.Group, strings.TrimPrefix(e.path(), "/")} {
		at, ok := index.Paths[path]
		if !ok {
			continue
		}
		own[path] = openapi.PathV3 + "/" + path
		if strings.HasPrefix(at.ServerRelativeURL, own[path]+"?hash=") { // it leads nowhere else
			own[path] = at.ServerRelativeURL
		}
	}
	return own, nil
}
