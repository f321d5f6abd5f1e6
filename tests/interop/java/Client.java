// Calls a Longwave server over gRPC's official Java client, as a script says, and prints what came of each call.
//
// It is tests/interop/go/main.go in another language: the same plan in, the same lines out. It judges nothing.

import com.google.gson.Gson;
import com.google.gson.JsonArray;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.protobuf.DescriptorProtos.FileDescriptorProto;
import com.google.protobuf.DescriptorProtos.FileDescriptorSet;
import com.google.protobuf.Descriptors.FileDescriptor;
import com.google.protobuf.Descriptors.MethodDescriptor;
import com.google.protobuf.Descriptors.ServiceDescriptor;
import com.google.protobuf.DynamicMessage;
import com.google.protobuf.Empty;
import com.google.protobuf.Message;
import com.google.protobuf.util.JsonFormat;
import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.TlsChannelCredentials;
import io.grpc.protobuf.ProtoUtils;
import java.io.BufferedReader;
import java.io.File;
import java.io.InputStreamReader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

public final class Client {
  static final int ANSWER_BYTES_MAX = 64 << 20;
  static final int PIECE_BYTES = 2000;
  static final long PATIENCE_MS = 60_000;
  static final Metadata.Key<byte[]> RICH = binary("grpc-status-details-bin");

  /** One call; see `call` in go/main.go. */
  static final class Call {
    String name;
    String method;
    JsonObject request = new JsonObject();
    String key;
    long deadline_ms = PATIENCE_MS;
    boolean gzip;
    int metadata_bytes;
    int text_bytes;
    int take;
    int times;
    long ping_ms;
    long hold_ms;
    boolean wait_for_ready;
  }

  static final class Drain {
    Call submit;
    Call watch;
    Call stream;
    int workers;
    int first;
  }

  static final class Plan {
    String target;
    String ca;
    String key;
    String descriptors;
    List<Call> calls;
    Drain drain;
  }

  static Plan plan;
  static final Map<String, MethodDescriptor> methods = new HashMap<>();

  public static void main(String[] arguments) throws Exception {
    plan = new Gson().fromJson(Files.readString(Path.of(arguments[0])), Plan.class);
    describe(FileDescriptorSet.parseFrom(Files.readAllBytes(Path.of(plan.descriptors))));
    if (plan.drain != null) {
      drain(plan.drain);
    } else {
      ManagedChannel shared = dial(0);
      for (Call call : plan.calls) {
        ManagedChannel channel = call.ping_ms > 0 ? dial(call.ping_ms) : shared;
        JsonObject did = run(channel, call).get();
        if (call.hold_ms > 0) {
          Thread.sleep(call.hold_ms);
          did = run(channel, call).get();
        }
        System.out.println(did);
      }
    }
    System.exit(0);
  }

  static void describe(FileDescriptorSet set) throws Exception {
    Map<String, FileDescriptor> files = new HashMap<>();
    for (FileDescriptorProto file : set.getFileList()) { // what a file depends on comes before it
      FileDescriptor[] needs = file.getDependencyList().stream().map(files::get).toArray(FileDescriptor[]::new);
      FileDescriptor made = FileDescriptor.buildFrom(file, needs);
      files.put(file.getName(), made);
      for (ServiceDescriptor service : made.getServices()) {
        service.getMethods().forEach(method -> methods.put(service.getFullName() + "/" + method.getName(), method));
      }
    }
  }

  static ManagedChannel dial(long pingMs) throws Exception {
    var credentials = plan.ca.isEmpty()
        ? InsecureChannelCredentials.create()
        : TlsChannelCredentials.newBuilder().trustManager(new File(plan.ca)).build();
    var builder = Grpc.newChannelBuilder(plan.target, credentials).maxInboundMessageSize(ANSWER_BYTES_MAX);
    if (pingMs > 0) {
      builder.keepAliveTime(pingMs, TimeUnit.MILLISECONDS).keepAliveWithoutCalls(true);
    }
    return builder.build();
  }

  static Metadata.Key<String> text(String name) {
    return Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER);
  }

  static Metadata.Key<byte[]> binary(String name) {
    return Metadata.Key.of(name, Metadata.BINARY_BYTE_MARSHALLER);
  }

  static Metadata headers(Call call) {
    Metadata headers = new Metadata();
    String key = call.key == null ? plan.key : call.key;
    if (!key.isEmpty()) {
      headers.put(text("authorization"), "Bearer " + key);
    }
    for (int left = call.metadata_bytes, number = 0; left > 0; left -= PIECE_BYTES, number++) {
      headers.put(text("x-piece-" + number), "a".repeat(Math.min(left, PIECE_BYTES)));
    }
    return headers;
  }

  /** Of a method that does not exist, one that asks and answers nothing. */
  static io.grpc.MethodDescriptor<Message, Message> method(Call call, MethodDescriptor described) {
    Message nothing = Empty.getDefaultInstance();
    Message asks = described == null ? nothing : DynamicMessage.getDefaultInstance(described.getInputType());
    Message answers = described == null ? nothing : DynamicMessage.getDefaultInstance(described.getOutputType());
    var kind = described == null || !described.isServerStreaming()
        ? io.grpc.MethodDescriptor.MethodType.UNARY
        : described.isClientStreaming()
            ? io.grpc.MethodDescriptor.MethodType.BIDI_STREAMING
            : io.grpc.MethodDescriptor.MethodType.SERVER_STREAMING;
    return io.grpc.MethodDescriptor.<Message, Message>newBuilder()
        .setType(kind)
        .setFullMethodName(call.method)
        .setRequestMarshaller(ProtoUtils.marshaller(asks))
        .setResponseMarshaller(ProtoUtils.marshaller(answers))
        .build();
  }

  static Message asked(Call call, MethodDescriptor described, int sequence) throws Exception {
    if (described == null) {
      return Empty.getDefaultInstance();
    }
    JsonObject request = call.request.deepCopy();
    if (call.text_bytes > 0) {
      request.getAsJsonObject("submission").addProperty("text", "a".repeat(call.text_bytes));
    }
    if (sequence > 0) {
      request.addProperty("sequence", sequence);
    }
    var builder = DynamicMessage.newBuilder(described.getInputType());
    JsonFormat.parser().merge(request.toString(), builder);
    return builder.build();
  }

  static CompletableFuture<JsonObject> run(ManagedChannel channel, Call call) throws Exception {
    MethodDescriptor described = methods.get(call.method);
    boolean both = described != null && described.isClientStreaming();
    CallOptions options = CallOptions.DEFAULT.withDeadlineAfter(call.deadline_ms, TimeUnit.MILLISECONDS);
    options = call.gzip ? options.withCompression("gzip") : options;
    options = call.wait_for_ready ? options.withWaitForReady() : options;
    Message asked = asked(call, described, 0);
    var going = channel.newCall(method(call, described), options);
    var done = new CompletableFuture<JsonObject>();
    going.start(new Talk(going, call, described, both, done), headers(call));
    if (!both) {
      going.sendMessage(asked);
      going.halfClose();
    }
    going.request(2);
    return done;
  }

  /** Answers of one call, and the further requests of a stream. */
  static final class Talk extends ClientCall.Listener<Message> {
    final ClientCall<Message, Message> going;
    final Call call;
    final MethodDescriptor described;
    final boolean both;
    final CompletableFuture<JsonObject> done;
    final JsonArray answers = new JsonArray();
    int sent;
    int answered;
    long credit;

    Talk(
        ClientCall<Message, Message> going, Call call, MethodDescriptor described, boolean both,
        CompletableFuture<JsonObject> done) {
      this.going = going;
      this.call = call;
      this.described = described;
      this.both = both;
      this.done = done;
    }

    @Override
    public void onMessage(Message message) {
      try {
        JsonObject answer = JsonParser.parseString(
            JsonFormat.printer().preservingProtoFieldNames().omittingInsignificantWhitespace().print(message)).getAsJsonObject();
        answers.add(answer);
        if (call.take > 0 && answers.size() == call.take) {
          going.cancel("enough", null);
        }
        if (both && call.take == 0) {
          goOn(answer);
        }
        going.request(1);
      } catch (Exception error) {
        done.completeExceptionally(error);
      }
    }

    void goOn(JsonObject answer) throws Exception {
      credit += answer.has("credit") ? answer.get("credit").getAsLong() : 0;
      answered += answer.has("sequence") ? 1 : 0;
      int messages = call.request.getAsJsonArray("submissions").size();
      for (; sent < call.times && credit >= messages; credit -= messages) {
        sent++;
        going.sendMessage(asked(call, described, sent));
      }
      if (answered == call.times) {
        going.halfClose();
      }
    }

    @Override
    public void onClose(Status status, Metadata trailers) {
      JsonObject said = new JsonObject();
      said.addProperty("name", call.name);
      said.addProperty("code", status.getCode().value());
      said.addProperty("details", status.getDescription() == null ? "" : status.getDescription());
      byte[] rich = trailers.get(RICH);
      said.addProperty("status", rich == null ? "" : Base64.getEncoder().encodeToString(rich));
      JsonObject others = new JsonObject();
      for (String name : trailers.keys()) {
        if (name.equals(RICH.name())) {
          continue;
        }
        JsonArray values = new JsonArray();
        if (name.endsWith("-bin")) {
          trailers.getAll(binary(name)).forEach(value -> values.add(Base64.getEncoder().encodeToString(value)));
        } else {
          trailers.getAll(text(name)).forEach(values::add);
        }
        others.add(name, values);
      }
      said.add("trailers", others);
      said.add("answers", answers);
      done.complete(said);
    }
  }

  /** Calls until the server goes, tells how each ended, and makes one more call when it is said that the server is back. */
  static void drain(Drain drain) throws Exception {
    ManagedChannel channel = dial(0);
    AtomicInteger accepted = new AtomicInteger();
    List<CompletableFuture<JsonObject>> going = new ArrayList<>();
    going.add(run(channel, drain.watch));
    going.add(run(channel, drain.stream));
    for (int number = 0; number < drain.workers; number++) {
      going.add(CompletableFuture.supplyAsync(() -> untilRefused(channel, drain, accepted), Client::inThread));
    }
    JsonArray ended = new JsonArray();
    for (var each : going) {
      ended.add(each.get());
    }
    JsonObject said = new JsonObject();
    said.addProperty("accepted", accepted.get());
    said.add("ended", ended);
    System.out.println(said);
    new BufferedReader(new InputStreamReader(System.in)).readLine();
    drain.submit.wait_for_ready = true;
    System.out.println(run(channel, drain.submit).get());
  }

  static void inThread(Runnable work) {
    Thread thread = new Thread(work);
    thread.setDaemon(true);
    thread.start();
  }

  static JsonObject untilRefused(ManagedChannel channel, Drain drain, AtomicInteger accepted) {
    try {
      for (;;) {
        JsonObject did = run(channel, drain.submit).get();
        if (did.get("code").getAsInt() != 0) {
          return did;
        }
        if (accepted.incrementAndGet() == drain.first) {
          System.out.println("armed");
        }
      }
    } catch (Exception error) {
      throw new IllegalStateException(error);
    }
  }
}
