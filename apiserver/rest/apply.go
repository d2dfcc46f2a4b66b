package rest

import (
	"context"
	"encoding/json"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"

	"github.com/skiff-k8s/skiff/apiserver/codec"
	"github.com/skiff-k8s/skiff/apiserver/request"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// apply merges an applied configuration into live (server-side apply).
func (h *Handler) apply(ctx context.Context, w *write, p *patch, live resource.Object) (resource.Object, error) {
	config, err := p.config()
	if err != nil {
		return nil, err
	}
	force := p.options.Force != nil && *p.options.Force
	obj, err := h.Fields.Apply(ctx, w.resource, w.subName(), live, config, p.options.FieldManager, force)
	if err != nil {
		return nil, err
	}
	return obj, p.strictYAML(ctx)
}

// config is the applied configuration. Its whole numbers are integers, as in objects that come otherwise.
func (p *patch) config() (*unstructured.Unstructured, error) {
	config := &unstructured.Unstructured{Object: map[string]any{}}
	err := yaml.Unmarshal(p.body, &config.Object, func(d *json.Decoder) *json.Decoder {
		d.UseNumber()
		return d
	})
	if err == nil {
		err = utiljson.ConvertMapNumbers(config.Object, 0)
	}
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding YAML: %v", err))
	}
	return config, nil
}

// strictYAML reports keys that are given twice; what is no field of the kind
// the merge has rejected.
func (p *patch) strictYAML(ctx context.Context) error {
	if p.lax() {
		return nil
	}
	err := yaml.UnmarshalStrict(p.body, &map[string]any{})
	switch {
	case err == nil:
		return nil
	case p.options.FieldValidation == metav1.FieldValidationStrict:
		return apierrors.NewBadRequest(fmt.Sprintf("error strict decoding YAML: %v", err))
	}
	codec.WarnStrict([]error{err}, func(text string) { request.Warn(ctx, text) })
	return nil
}
