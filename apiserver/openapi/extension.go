package openapi

import (
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"k8s.io/kube-openapi/pkg/aggregator"
	"k8s.io/kube-openapi/pkg/openapiconv"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/skiff-k8s/skiff/guard"
)

// Extension is a group version that another server serves and describes. It is
// not changed.
type Extension struct {
	Group, Version string
	// Index are the URLs of its documents of version 3, by path below /openapi/v3/;
	// nil: it has none, and they are made of Swagger. Serve answers for them. Those
	// of other group versions are left out.
	Index map[string]string
	Serve http.Handler
	// Swagger is its description in version 2; nil: it has none. That of other
	// group versions is left out.
	Swagger []byte
}

func (e *Extension) path() string { return "apis/" + e.Group + "/" + e.Version }

// addExtension adds the documents of version 3 of another server. None takes the
// place of one that is there.
func (d *documents) addExtension(e *Extension) {
	for _, path := range []string{"apis/" + e.Group, e.path()} {
		if e.Index[path] != "" && d.v3[path] == nil && d.others[path] == nil {
			d.others[path] = e
		}
	}
	if e.Index != nil || e.Swagger == nil || d.v3[e.path()] != nil {
		return
	}
	d.v3[e.path()] = &document{build: e.render, foreign: true, toProtobuf: protobufV3}
}

// render makes the document of version 3 of what there is of version 2.
func (e *Extension) render() (text []byte, err error) {
	err = guard.Call("description of an extension server", func() error {
		doc, err := e.own()
		if err != nil {
			return err
		}
		text, err = openapiconv.ConvertV2ToV3(doc).MarshalJSON()
		return err
	})
	return text, err
}

// own is what the server describes of the group version.
func (e *Extension) own() (*spec.Swagger, error) {
	doc := &spec.Swagger{}
	if err := doc.UnmarshalJSON(e.Swagger); err != nil {
		return nil, fmt.Errorf("description of %s: %w", e.path(), err)
	}
	if doc.Paths == nil {
		doc.Paths = &spec.Paths{}
	}
	return aggregator.FilterSpecByPathsWithoutSideEffects(doc, []string{"/" + e.path() + "/"}), nil
}

// merge adds what the server describes to doc, and reports whether it could.
func (e *Extension) merge(doc *spec.Swagger) bool {
	if e.Swagger == nil {
		return true
	}
	err := guard.Call("description of an extension server", func() error {
		own, err := e.own()
		if err != nil {
			return err
		}
		return aggregator.MergeSpecsIgnorePathConflictRenamingDefinitionsAndParameters(doc, own)
	})
	if err != nil {
		slog.Warn("what an extension server describes is left out", "group", e.Group, "version", e.Version, "error", strings.ToValidUTF8(err.Error(), ""))
	}
	return err == nil
}
