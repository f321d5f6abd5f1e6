// Client calls a Longwave server over gRPC's official Go client, as a script says, and prints what came of each call.
//
// It knows no method: requests are JSON, and descriptors come in a file. It judges nothing.
//
// Usage: client PLAN (see tests/interop/clients.py); with "drain" in the plan it calls until the server goes.
package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/emptypb"
)

const (
	answerBytesMax = 64 << 20
	pieceBytes     = 2000
	// Of a call that the script gives no deadline.
	patience = 60 * time.Second
)

type plan struct {
	Target      string `json:"target"`
	CA          string `json:"ca"`
	Key         string `json:"key"`
	Descriptors string `json:"descriptors"`
	Calls       []call `json:"calls"`
	Drain       *drain `json:"drain"`
}

// One call. Of a stream `Request` is sent `Times` times, within the server's credit.
type call struct {
	Name          string          `json:"name"`
	Method        string          `json:"method"`
	Request       json.RawMessage `json:"request"`
	Key           *string         `json:"key"`
	DeadlineMs    int             `json:"deadline_ms"`
	Gzip          bool            `json:"gzip"`
	MetadataBytes int             `json:"metadata_bytes"`
	TextBytes     int             `json:"text_bytes"`
	Take          int             `json:"take"` // answers, then it is cancelled; 0: all
	Times         int             `json:"times"`
	PingMs        int             `json:"ping_ms"` // on a connection of its own
	HoldMs        int             `json:"hold_ms"` // then it is made again
}

// Workers make the call `Submit` until it fails; beside them is one call of each other kind.
type drain struct {
	Submit  call `json:"submit"`
	Watch   call `json:"watch"`
	Stream  call `json:"stream"`
	Workers int  `json:"workers"`
	First   int  `json:"first"` // calls in all, before the server is to go
}

type outcome struct {
	Name     string              `json:"name"`
	Code     int                 `json:"code"`
	Details  string              `json:"details"`
	Status   string              `json:"status"`
	Trailers map[string][]string `json:"trailers"`
	Answers  []json.RawMessage   `json:"answers"`
}

type client struct {
	plan  plan
	files *protoregistry.Files
}

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return value
}

func main() {
	var c client
	must(0, json.Unmarshal(must(os.ReadFile(os.Args[1])), &c.plan))
	var set descriptorpb.FileDescriptorSet
	must(0, proto.Unmarshal(must(os.ReadFile(c.plan.Descriptors)), &set))
	c.files = must(protodesc.NewFiles(&set))
	if c.plan.Drain != nil {
		c.drain(*c.plan.Drain)
		return
	}
	shared := c.dial(0)
	defer shared.Close()
	print := json.NewEncoder(os.Stdout)
	for _, each := range c.plan.Calls {
		conn := shared
		if each.PingMs > 0 {
			conn = c.dial(time.Duration(each.PingMs) * time.Millisecond)
		}
		did := c.run(conn, each)
		if each.HoldMs > 0 {
			time.Sleep(time.Duration(each.HoldMs) * time.Millisecond)
			did = c.run(conn, each)
		}
		must(0, print.Encode(did))
	}
}

func (c *client) dial(ping time.Duration) *grpc.ClientConn {
	transport := insecure.NewCredentials()
	if c.plan.CA != "" {
		transport = must(credentials.NewClientTLSFromFile(c.plan.CA, ""))
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(answerBytesMax)),
	}
	if ping > 0 {
		options = append(options, grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: ping, PermitWithoutStream: true}))
	}
	return must(grpc.NewClient("dns:///"+c.plan.Target, options...))
}

// The kinds of a method's request and answer; of one that does not exist, empty ones.
func (c *client) kinds(method string) (protoreflect.MethodDescriptor, func() proto.Message, func() proto.Message) {
	nothing := func() proto.Message { return new(emptypb.Empty) }
	found, err := c.files.FindDescriptorByName(protoreflect.FullName(strings.ReplaceAll(method, "/", ".")))
	if err != nil {
		return nil, nothing, nothing
	}
	described := found.(protoreflect.MethodDescriptor)
	of := func(kind protoreflect.MessageDescriptor) func() proto.Message {
		return func() proto.Message { return dynamicpb.NewMessage(kind) }
	}
	return described, of(described.Input()), of(described.Output())
}

func (c *client) context(each call) (context.Context, context.CancelFunc) {
	limit := patience
	if each.DeadlineMs > 0 {
		limit = time.Duration(each.DeadlineMs) * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	key := c.plan.Key
	if each.Key != nil {
		key = *each.Key
	}
	if key != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+key)
	}
	for left, number := each.MetadataBytes, 0; left > 0; left, number = left-pieceBytes, number+1 {
		ctx = metadata.AppendToOutgoingContext(ctx, fmt.Sprintf("x-piece-%d", number), strings.Repeat("a", min(left, pieceBytes)))
	}
	return ctx, cancel
}

func (c *client) run(conn *grpc.ClientConn, each call, more ...grpc.CallOption) outcome {
	described, request, answer := c.kinds(each.Method)
	asked := request()
	if described != nil {
		must(0, protojson.Unmarshal(each.Request, asked))
		if each.TextBytes > 0 {
			submission := asked.ProtoReflect().Descriptor().Fields().ByName("submission")
			inner := asked.ProtoReflect().Mutable(submission).Message()
			inner.Set(inner.Descriptor().Fields().ByName("text"), protoreflect.ValueOfString(strings.Repeat("a", each.TextBytes)))
		}
	}
	ctx, cancel := c.context(each)
	defer cancel()
	if each.Gzip {
		more = append(more, grpc.UseCompressor("gzip"))
	}
	did := outcome{Name: each.Name, Answers: []json.RawMessage{}}
	var trailers metadata.MD
	var err error
	if described == nil || !described.IsStreamingServer() {
		got := answer()
		err = conn.Invoke(ctx, "/"+each.Method, asked, got, append(more, grpc.Trailer(&trailers))...)
		if err == nil {
			did.keep(got)
		}
	} else {
		desc := &grpc.StreamDesc{ServerStreams: true, ClientStreams: described.IsStreamingClient()}
		var stream grpc.ClientStream
		if stream, err = conn.NewStream(ctx, desc, "/"+each.Method, more...); err == nil {
			err = did.talk(stream, each, asked, answer, cancel, described.IsStreamingClient())
			trailers = stream.Trailer()
		}
	}
	did.end(err, trailers)
	return did
}

// Requests and answers of a stream, to its end.
func (o *outcome) talk(
	stream grpc.ClientStream, each call, asked proto.Message, answer func() proto.Message, cancel func(), both bool,
) error {
	if !both {
		if err := stream.SendMsg(asked); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if err := stream.CloseSend(); err != nil {
			return err
		}
	}
	sent, answered, credit := 0, 0, uint64(0)
	for {
		got := answer()
		if err := stream.RecvMsg(got); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		o.keep(got)
		if each.Take > 0 && len(o.Answers) == each.Take {
			cancel()
		}
		if !both || each.Take > 0 {
			continue
		}
		fields := got.ProtoReflect().Descriptor().Fields()
		credit += got.ProtoReflect().Get(fields.ByName("credit")).Uint()
		if got.ProtoReflect().Get(fields.ByName("sequence")).Uint() != 0 {
			answered++
		}
		ask := asked.ProtoReflect()
		messages := uint64(ask.Get(ask.Descriptor().Fields().ByName("submissions")).List().Len())
		for ; sent < each.Times && credit >= messages; credit -= messages {
			sent++
			ask.Set(ask.Descriptor().Fields().ByName("sequence"), protoreflect.ValueOfUint64(uint64(sent)))
			if err := stream.SendMsg(asked); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
		}
		if answered == each.Times {
			if err := stream.CloseSend(); err != nil {
				return err
			}
		}
	}
}

func (o *outcome) keep(answer proto.Message) {
	o.Answers = append(o.Answers, must(protojson.MarshalOptions{UseProtoNames: true}.Marshal(answer)))
}

func (o *outcome) end(err error, trailers metadata.MD) {
	said := status.Convert(err)
	o.Code, o.Details = int(said.Code()), said.Message()
	if len(said.Proto().GetDetails()) > 0 {
		o.Status = base64.StdEncoding.EncodeToString(must(proto.Marshal(said.Proto())))
	}
	o.Trailers = map[string][]string{}
	for name, values := range trailers {
		if name != "grpc-status-details-bin" {
			o.Trailers[name] = values
		}
	}
}

// Calls until the server goes, tells how each ended, and makes one more call when it is said that the server is back.
func (c *client) drain(plan drain) {
	conn := c.dial(0)
	defer conn.Close()
	print, lines := json.NewEncoder(os.Stdout), bufio.NewReader(os.Stdin)
	var ended sync.WaitGroup
	var accepted atomic.Int64
	outcomes := make([]outcome, 2+plan.Workers)
	for place, each := range []call{plan.Watch, plan.Stream} {
		ended.Go(func() { outcomes[place] = c.run(conn, each) })
	}
	for place := range plan.Workers {
		ended.Go(func() {
			for {
				did := c.run(conn, plan.Submit)
				if did.Code != 0 {
					outcomes[2+place] = did
					return
				}
				if accepted.Add(1) == int64(plan.First) {
					fmt.Println("armed")
				}
			}
		})
	}
	ended.Wait()
	must(0, print.Encode(map[string]any{"accepted": accepted.Load(), "ended": outcomes}))
	must(lines.ReadString('\n'))
	must(0, print.Encode(c.run(conn, plan.Submit, grpc.WaitForReady(true))))
}
