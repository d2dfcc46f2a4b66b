package custom

import (
	"fmt"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/skiff-k8s/skiff/apiserver/deflate"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// served is one version of a kind.
type served struct {
	kind       *kind
	name       string
	row        *resource.Resource
	packed     []byte // the schema; nil: there is none
	status     bool
	scale      *apiextensionsv1.CustomResourceSubresourceScale
	selectable []apiextensionsv1.SelectableField
	printed    []apiextensionsv1.CustomResourceColumnDefinition

	// Each is made when it is first needed.
	structure func() (*schema.Structural, error)
	checks    func() (*checks, error)
}

// checks are what objects are validated by.
type checks struct {
	whole, status validation.SchemaValidator
	rules         *cel.Validator // nil: there are none
}

func newVersion(k *kind, d *apiextensionsv1.CustomResourceDefinitionVersion) (*served, error) {
	v := &served{kind: k, name: d.Name, printed: d.AdditionalPrinterColumns, selectable: d.SelectableFields}
	if s := d.Subresources; s != nil {
		v.status, v.scale = s.Status != nil, s.Scale
	}
	if d.Schema != nil {
		var err error
		if v.packed, err = pack(d.Schema); err != nil {
			return nil, err
		}
	}
	v.structure, v.checks = sync.OnceValues(v.newStructure), sync.OnceValues(v.newChecks)
	return v, nil
}

// pack keeps a schema in a tenth of the memory.
func pack(s *apiextensionsv1.CustomResourceValidation) ([]byte, error) {
	plain, err := s.Marshal()
	if err != nil {
		return nil, fmt.Errorf("pack schema: %w", err)
	}
	return deflate.Pack(plain)
}

// unpack is the schema of the version, nil if there is none.
func (v *served) unpack() (*apiextensions.JSONSchemaProps, error) {
	if v.packed == nil {
		return nil, nil
	}
	plain, err := deflate.Unpack(v.packed)
	if err != nil {
		return nil, fmt.Errorf("unpack schema: %w", err)
	}
	var packed apiextensionsv1.CustomResourceValidation
	if err := packed.Unmarshal(plain); err != nil {
		return nil, fmt.Errorf("unpack schema: %w", err)
	}
	var out apiextensions.CustomResourceValidation
	if err := apiextensionsv1.Convert_v1_CustomResourceValidation_To_apiextensions_CustomResourceValidation(&packed, &out, nil); err != nil {
		return nil, fmt.Errorf("convert schema: %w", err)
	}
	return out.OpenAPIV3Schema, nil
}

// newStructure is the schema that prunes and fills in defaults. Kinds that keep
// unknown fields may have one that is not structural, which does neither.
func (v *served) newStructure() (*schema.Structural, error) {
	s, err := v.unpack()
	if err != nil || s == nil {
		return nil, err
	}
	structural, err := schema.NewStructural(s)
	switch {
	case err != nil && v.kind.keeps:
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("schema of version %s: %w", v.name, err)
	case v.kind.keeps:
		return structural, nil
	}
	if err := defaulting.PruneDefaults(structural); err != nil {
		return nil, fmt.Errorf("defaults of version %s: %w", v.name, err)
	}
	return structural, nil
}

func (v *served) newChecks() (*checks, error) {
	s, err := v.unpack()
	if err != nil {
		return nil, err
	}
	c := &checks{}
	if c.whole, _, err = validation.NewSchemaValidator(s); err != nil {
		return nil, fmt.Errorf("schema of version %s: %w", v.name, err)
	}
	if s != nil && v.status {
		if status, ok := s.Properties["status"]; ok {
			if c.status, _, err = validation.NewSchemaValidator(&status); err != nil {
				return nil, fmt.Errorf("schema of version %s: %w", v.name, err)
			}
		}
	}
	structural, err := v.structure()
	if err != nil {
		return nil, err
	}
	c.rules = cel.NewValidator(structural, true, celconfig.PerCallLimit)
	return c, nil
}

// openAPI is the schema for documents; nil if it is not structural, for then
// nothing can be said of it there.
func (v *served) openAPI() *spec.Schema {
	s, err := v.unpack()
	if err != nil || s == nil {
		return nil
	}
	structural, err := schema.NewStructural(s)
	if err != nil || len(schema.ValidateStructural(nil, structural)) > 0 {
		return nil
	}
	return structural.Unfold().ToKubeOpenAPI()
}
