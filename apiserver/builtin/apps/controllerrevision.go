package apps

import (
	"encoding/json"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// controllerRevisions keep their data byte for byte: controllers compare it with
// what they would write.
func controllerRevisions() *resource.Resource {
	return resource.Define[appsv1.ControllerRevisionList](resource.Definition[appsv1.ControllerRevision]{
		Group: "apps", Version: "v1", Kind: "ControllerRevision", Plural: "controllerrevisions",
		Validate: func(obj, old *appsv1.ControllerRevision) field.ErrorList {
			errs := notNegative(nil, count{"revision", obj.Revision})
			if old != nil {
				return append(errs, apivalidation.ValidateImmutableField(obj.Data, old.Data, field.NewPath("data"))...)
			}
			return append(errs, validateRevisionData(obj.Data.Raw)...)
		},
		Columns: controllerRevisionColumns(),
	})
}

func validateRevisionData(raw []byte) field.ErrorList {
	path := field.NewPath("data")
	if raw == nil {
		return field.ErrorList{field.Required(path, "data is mandatory")}
	}
	var data any
	if err := json.Unmarshal(raw, &data); err != nil {
		return field.ErrorList{field.Invalid(path, "<value omitted>", fmt.Sprintf("error parsing data: %v", err))}
	}
	switch data.(type) {
	case map[string]any:
		return nil
	case nil:
		return field.ErrorList{field.Required(path, "data is mandatory")}
	}
	return field.ErrorList{field.Required(path, "data must be a valid JSON object")}
}

func controllerRevisionColumns() []resource.Column[*appsv1.ControllerRevision] {
	type revision = *appsv1.ControllerRevision
	return []resource.Column[revision]{
		resource.NameColumn[revision](),
		table.Text("Controller", "Controller of the object", func(r revision) string { return controllerName(r) }),
		textNumber("Revision", table.Doc(appsv1.ControllerRevision{}, "revision"), func(r revision) int64 { return r.Revision }),
		resource.AgeColumn[revision](),
	}
}

// controllerName is the controlling owner as kind.group/name.
func controllerName(obj metav1.Object) string {
	owner := metav1.GetControllerOf(obj)
	if owner == nil {
		return "<none>"
	}
	kind := schema.FromAPIVersionAndKind(owner.APIVersion, owner.Kind).GroupKind().String()
	return strings.ToLower(kind) + "/" + owner.Name
}
