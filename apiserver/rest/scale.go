package rest

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strings"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/codec"
	"github.com/skiff-k8s/skiff/apiserver/managedfields"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

var scaleKind = autoscalingv1.SchemeGroupVersion.WithKind("Scale")

// scaleOf is how obj is scaled.
func scaleOf(s *resource.Scale[resource.Object], obj resource.Object) *autoscalingv1.Scale {
	scale := &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Name: obj.GetName(), Namespace: obj.GetNamespace(), UID: obj.GetUID(),
			ResourceVersion: obj.GetResourceVersion(), CreationTimestamp: obj.GetCreationTimestamp()},
		Status: autoscalingv1.ScaleStatus{Replicas: s.Status(obj), Selector: s.Selector(obj)},
	}
	if n := s.Replicas(obj); n != nil {
		scale.Spec.Replicas = *n
	}
	scale.SetGroupVersionKind(scaleKind)
	return scale
}

// answerScale writes the scale of an object.
func answerScale(w http.ResponseWriter, r *http.Request, code int, scale *autoscalingv1.Scale) error {
	return answerObject(w, r, code, scaleResource, scale)
}

// answerObject writes an object that is kept nowhere.
func answerObject(w http.ResponseWriter, r *http.Request, code int, res *resource.Resource, obj resource.Object) error {
	out, err := codec.Negotiate(r, codec.Offer{Protobuf: codec.HasProtobuf(obj), Table: true, Partial: true})
	if err != nil {
		return err
	}
	return answerItem(w, r, res, out, code, loose{obj})
}

// scaleResource lets a Scale be written like any object. There is no list of
// them; PartialObjectMetadataList stands in its place.
var scaleResource = resource.Define[metav1.PartialObjectMetadataList](resource.Definition[autoscalingv1.Scale]{
	Group: scaleKind.Group, Version: scaleKind.Version, Kind: scaleKind.Kind, Plural: "scales",
	Columns: []resource.Column[*autoscalingv1.Scale]{
		{Name: "Name", Type: "string", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"], Value: func(s *autoscalingv1.Scale) any { return s.Name }},
		{Name: "Desired", Type: "integer", Description: autoscalingv1.ScaleSpec{}.SwaggerDoc()["replicas"], Value: func(s *autoscalingv1.Scale) any { return s.Spec.Replicas }},
		{Name: "Available", Type: "integer", Description: autoscalingv1.ScaleStatus{}.SwaggerDoc()["replicas"], Value: func(s *autoscalingv1.Scale) any { return s.Status.Replicas }},
		resource.AgeColumn[*autoscalingv1.Scale](),
	},
})

func (h *Handler) getScale(w http.ResponseWriter, r *http.Request, t *target) error {
	options, err := getOptions(r.URL.Query())
	if err != nil {
		return err
	}
	item, err := h.read(r, t, options.ResourceVersion)
	if err != nil {
		return err
	}
	s := t.sub.Scale
	if s.Replicas(item.Object()) == nil {
		return apierrors.NewInternalError(fmt.Errorf("the spec replicas field %q does not exist", replicasField(s)))
	}
	return answerScale(w, r, http.StatusOK, scaleOf(s, item.Object()))
}

// replicasField is where the replicas are, as definitions of kinds write it.
func replicasField(s *resource.Scale[resource.Object]) string { return "." + strings.Join(s.Path, ".") }

func (h *Handler) updateScale(w http.ResponseWriter, r *http.Request, t *target) error {
	ctx, cancel := deadline(r)
	defer cancel()
	options, err := updateOptions(r)
	if err != nil {
		return err
	}
	scale := &autoscalingv1.Scale{}
	if err := decodeSub(r, t, options.FieldValidation, scale); err != nil {
		return err
	}
	askedAs(r, scale, scaleKind)
	if err := place(scale, t.namespace); err != nil {
		return err
	}
	if err := named(scale, t.name); err != nil {
		return err
	}
	wr := newWrite(r, t, options, options.FieldManager, options.DryRun)
	return h.rescale(ctx, w, r, wr, func(live *autoscalingv1.Scale) (resource.Object, error) {
		return h.manageScale(ctx, wr, live, scale.DeepCopy())
	})
}

func (h *Handler) patchScale(w http.ResponseWriter, r *http.Request, t *target) error {
	ctx, cancel := deadline(r)
	defer cancel()
	p, err := h.readPatch(r, t)
	if err != nil {
		return err
	}
	wr := newWrite(r, t, p.updateOptions(), p.options.FieldManager, p.options.DryRun)
	return h.rescale(ctx, w, r, wr, func(live *autoscalingv1.Scale) (resource.Object, error) {
		if p.kind == types.ApplyYAMLPatchType {
			return h.applyScale(ctx, wr, p, live)
		}
		scale := &autoscalingv1.Scale{}
		if err := p.apply(ctx, h.Fields.Heavy, live, scale, codec.Input{Kind: scaleKind}); err != nil {
			return nil, err
		}
		return h.manageScale(ctx, wr, live, scale)
	})
}

// manageScale records whose field the number of replicas is.
func (h *Handler) manageScale(ctx context.Context, w *write, live, scale *autoscalingv1.Scale) (resource.Object, error) {
	scale.SetGroupVersionKind(scaleKind)
	return scale, h.Fields.Update(ctx, scaleResource, w.sub.Name, live, scale, w.manager)
}

// applyScale merges an applied Scale.
func (h *Handler) applyScale(ctx context.Context, w *write, p *patch, live *autoscalingv1.Scale) (resource.Object, error) {
	config, err := p.config()
	if err != nil {
		return nil, err
	}
	force := p.options.Force != nil && *p.options.Force
	scale, err := h.Fields.Apply(ctx, scaleResource, w.sub.Name, live, config, p.options.FieldManager, force)
	if err != nil {
		return nil, err
	}
	return scale, p.strictYAML(ctx)
}

// rescale changes the replicas of an object as make says. Admission sees the
// Scale, the store the object.
func (h *Handler) rescale(ctx context.Context, rw http.ResponseWriter, r *http.Request, w *write, make func(live *autoscalingv1.Scale) (resource.Object, error)) error {
	s := w.sub.Scale
	object := *w
	var before *autoscalingv1.Scale
	object.trusted = true // admission sees the Scale instead
	object.judge = func(ctx context.Context, obj, _ resource.Object) error {
		return admissionError(w, h.Admission.Validate(ctx, h.attributes(ctx, w, "update", scaleOf(s, obj), before)))
	}
	parent := *w.target
	parent.sub = &resource.Sub{Name: w.sub.Name, Prepare: w.stored().Prepare, Validate: w.stored().Validate, Warn: w.stored().Warn}
	object.target = &parent
	item, _, err := h.updateObject(ctx, &object, change{make: func(live resource.Object) (resource.Object, error) {
		before = scaleOf(s, live)
		if s.Replicas(live) == nil {
			before.Spec.Replicas = noReplicas
		}
		fields := managedfields.Scale(w.resource, s, live.GetManagedFields())
		var err error
		if before.ManagedFields, err = fields.ToSubresource(); err != nil {
			return nil, err
		}
		made, err := make(before.DeepCopy())
		if err != nil {
			return nil, err
		}
		scale, ok := made.(*autoscalingv1.Scale)
		if !ok {
			return nil, fmt.Errorf("scale %s/%s: got %T", w.namespace, w.name, made)
		}
		if err := named(scale, w.name); err != nil {
			return nil, err
		}
		if scale.Spec.Replicas == noReplicas {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("the spec replicas field %q cannot be empty", replicasField(s)))
		}
		if err := h.change(ctx, w, h.attributes(ctx, w, "update", scale, before)); err != nil {
			return nil, err
		}
		if err := validateScale(w, scale, live); err != nil {
			return nil, err
		}
		obj := live.DeepCopyObject().(resource.Object)
		if version := scale.GetResourceVersion(); version != "" || w.resource.Custom == nil {
			obj.SetResourceVersion(version)
		} // else that of live: a scale needs none, but custom resources do
		s.SetReplicas(obj, scale.Spec.Replicas)
		entries, err := fields.ToParent(scale.GetManagedFields())
		obj.SetManagedFields(entries)
		return obj, err
	}})
	if err != nil {
		return err
	}
	return answerScale(rw, r, http.StatusOK, scaleOf(s, itemObject(item)))
}

// noReplicas is what a patch finds where an object does not say how many.
const noReplicas = math.MinInt32

func validateScale(w *write, scale *autoscalingv1.Scale, live resource.Object) error {
	if uid := scale.GetUID(); uid != "" && uid != live.GetUID() {
		return uidConflict(w.stored(), w, uid, live.GetUID())
	}
	if scale.Spec.Replicas >= 0 || w.resource.Custom != nil { // the object itself is judged in its own words
		return nil
	}
	return apierrors.NewInvalid(schema.GroupKind{Group: "autoscaling", Kind: "Scale"}, scale.GetName(), field.ErrorList{
		field.Invalid(field.NewPath("spec", "replicas"), scale.Spec.Replicas, "must be greater than or equal to 0")})
}
